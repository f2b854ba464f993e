"""Damaged GGUF files: bytes and structure changed at random; each has to be read or refused by a diagnostic.

    python -m tests.gguf_source.fuzz_gguf [cases] [seed]

A case is what `edgec check` does with a file, then what a compile reads first: the graph, the tokenizer, some rows.
"""

from __future__ import annotations

import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.weights import as_weight
from edgec.compiler.sources.gguf.gguf_file import GgufFile, read_gguf
from edgec.compiler.sources.gguf.gguf_source import GgufSource
from tokenizers import Tokenizer

_LONGEST = 5.0  # seconds a case may take
_NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    255,
    256,
    65535,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    (1 << 64) - 1,
]
_VALUES: list[Any] = [
    0, 1, -1, 3, 100_000, (1 << 32) - 1, True, False, 0.0, -1.5, 1e38, float("nan"), float("inf"), "", "x", "llama",
    "{% for m in messages %}", [], [0], [1, 2, 3], ["a", "b"], ["a", "a"], [""], [0.5], [True, False], [-1, 1 << 31],
]  # fmt: skip


def encoded(value: Any) -> bytes:
    """A value of metadata behind its type."""
    kind, raw = _coded(value)
    if not isinstance(value, list):
        return struct.pack("<I", kind) + raw
    inner = [_coded(one) for one in value]
    of = inner[0][0] if inner else 4
    return struct.pack("<IIQ", 9, of, len(inner)) + b"".join(raw for _, raw in inner)


def _coded(value: Any) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return (4, struct.pack("<I", value)) if 0 <= value < 1 << 32 else (11, struct.pack("<q", value))
    if isinstance(value, float):
        return 12, struct.pack("<d", value)
    if isinstance(value, str):
        return 8, _text(value)
    return 9, b""


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def written(metadata: dict[str, Any], tensors: list[tuple[str, tuple[int, ...], int, int]], data: bytes) -> bytes:
    """A file of version 3; tensors are (name, shape outermost first, type, offset)."""
    raw = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    raw += b"".join(_text(key) + encoded(value) for key, value in metadata.items())
    for name, shape, kind, offset in tensors:
        raw += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *(d % (1 << 64) for d in reversed(shape)))
        raw += struct.pack("<IQ", kind, offset % (1 << 64))
    return raw + bytes(-len(raw) % 32) + data


def cases(path: Path, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged forms of the right file `path`, each with a word for what was done."""
    raw, file, rng = path.read_bytes(), read_gguf(path), random.Random(seed)
    kinds = [_bytes_changed, _cut, _number_put, _value_changed, _key_changed, _tensor_changed, _tokens_changed]
    for index in range(count):
        change = kinds[index % len(kinds)]
        yield change.__name__.strip("_"), change(raw, file, rng)


def _bytes_changed(raw: bytes, file: GgufFile, rng: random.Random) -> bytes:
    made = bytearray(raw)
    for _ in range(rng.choice((1, 1, 3, 20))):
        made[rng.randrange(file.header_bytes)] = rng.randrange(256)
    return bytes(made)


def _cut(raw: bytes, file: GgufFile, rng: random.Random) -> bytes:
    return raw[: rng.randrange(rng.choice((64, file.header_bytes, len(raw))))]


def _number_put(raw: bytes, file: GgufFile, rng: random.Random) -> bytes:
    at, code = rng.randrange(4, file.header_bytes), rng.choice("IQ")
    new = struct.pack(f"<{code}", rng.choice(_NUMBERS) % (1 << (32 if code == "I" else 64)))
    return raw[:at] + new + raw[at + len(new) :]


def _tensors(file: GgufFile, raw: bytes) -> tuple[list[tuple[str, tuple[int, ...], int, int]], bytes]:
    start = -(-file.header_bytes // 32) * 32
    types = {"F32": 0, "F16": 1, "Q8_0": 8}
    rows = [(t.name, t.shape, types[t.type.name], t.offset - start) for t in file.tensors.values()]
    return rows, raw[start:]


def _value_changed(raw: bytes, file: GgufFile, rng: random.Random) -> bytes:
    metadata = dict(file.metadata)
    for _ in range(rng.choice((1, 1, 2))):
        metadata[rng.choice(list(metadata))] = rng.choice(_VALUES)
    return written(metadata, *_tensors(file, raw))


def _key_changed(raw: bytes, file: GgufFile, rng: random.Random) -> bytes:
    metadata = dict(file.metadata)
    key = rng.choice(list(metadata))
    value = metadata.pop(key)
    if rng.random() < 0.5:
        metadata[rng.choice((key + "x", "", "split.count", "general.alignment", "general.type", "\x1b[2J"))] = value
    return written(metadata, *_tensors(file, raw))


def _tensor_changed(raw: bytes, file: GgufFile, rng: random.Random) -> bytes:
    rows, data = _tensors(file, raw)
    at = rng.randrange(len(rows))
    name, shape, kind, offset = rows[at]
    what = rng.randrange(5)
    if what == 0:
        shape = (*shape[:-1], rng.choice(_NUMBERS))
    elif what == 1:
        shape = tuple(rng.choice(_NUMBERS) for _ in range(rng.randrange(6)))
    elif what == 2:
        kind = rng.randrange(45)
    elif what == 3:
        offset = rng.choice([*_NUMBERS, 1, 33, len(data) - 1])
    else:
        name = rng.choice(("", "rope_freqs.weight", rows[at - 1][0], name + ".bias", "blk.0.attn_q.bias"))
    rows[at] = (name, shape, kind, offset)
    return written(dict(file.metadata), rows, data)


def _tokens_changed(raw: bytes, file: GgufFile, rng: random.Random) -> bytes:
    metadata = dict(file.metadata)
    key = rng.choice([key for key in metadata if key.startswith("tokenizer.ggml.")])
    if isinstance(metadata[key], list):
        values = list(metadata[key])
        for _ in range(rng.choice((1, 5))):
            values[rng.randrange(len(values))] = rng.choice(values + [_VALUES[0]] * isinstance(values[0], int))
        metadata[key] = values[: rng.choice((len(values), len(values), 5))]
    else:
        metadata[key] = rng.choice(_VALUES)
    return written(metadata, *_tensors(file, raw))


def tried(path: Path) -> str:
    """What becomes of the file: `read`, or the code it is refused with. Anything but a diagnostic is raised."""
    source = GgufSource()
    try:
        source.outline(path)
        module = source.load("m", path, 16)
        Tokenizer.from_file(str(source.tokenizer_folder(path) / "tokenizer.json")).encode("a b\u0101\u0102")
        for value in module.main.graph.initializers.values():
            weight = None if value.const_value is None else as_weight(value.const_value)
            if weight is not None and weight.dims:
                weight.rows(0, min(2, weight.dims[0]))
    except PlanError as error:
        (diagnostic,) = error.diagnostics
        if str(path) not in diagnostic.message and "context" not in diagnostic.message:
            raise AssertionError(f"the file is not named: {diagnostic.message}") from error
        return diagnostic.code
    return "read"


def campaign(whole: Path, folder: Path, count: int, seed: int) -> Counter[str]:
    """Codes and how often each came, over `count` cases; AssertionError for whatever is no diagnostic, or too slow."""
    found: Counter[str] = Counter()
    path = folder / "damaged.gguf"
    for index, (what, raw) in enumerate(cases(whole, count, seed)):
        path.write_bytes(raw)
        begun = time.monotonic()
        try:
            found[tried(path)] += 1
        except Exception as error:
            raise AssertionError(f"case {index} of seed {seed} ({what}): {type(error).__name__}: {error}") from error
        if time.monotonic() - begun > _LONGEST:
            raise AssertionError(f"case {index} of seed {seed} ({what}) took {time.monotonic() - begun:.1f} s")
    return found


def small_model(folder: Path, kind: str) -> Path:
    """A right file: a random model of one layer, with a tokenizer of the kind `gpt2` or `llama`."""
    import json

    import numpy as np
    from edgec.compiler.sources.hf.read_decoder_arch import read_arch
    from safetensors.numpy import save_file

    from .make_gguf import Type, write_gguf

    folder.mkdir()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    rest = {"num_key_value_heads": 1, "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-6}
    config = {"model_type": "qwen2" if kind == "gpt2" else "llama", "eos_token_id": 2, "bos_token_id": 1}
    (folder / "config.json").write_text(json.dumps({**size, **rest, **config}))
    shapes = read_arch(folder).tensors().items()
    rng = np.random.default_rng(0)
    save_file({name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}, folder / "model.safetensors")
    tokens: dict[str, Any] = {}
    if kind == "gpt2":
        words = [*(chr(0x100 + i) for i in range(298)), "ab", "Āā"]
        ids = {"bos_token_id": 1, "eos_token_id": 2, "add_bos_token": False}
        types = [3 if i < 3 else 1 for i in range(300)]
        tokens = {"model": "gpt2", "pre": "qwen2", "tokens": words, "token_type": types, "merges": ["Ā ā"], **ids}
        tokens = {f"tokenizer.ggml.{key}": value for key, value in tokens.items()}
        tokens["tokenizer.ggml.scores"] = None
    tokens["tokenizer.chat_template"] = "{{ messages[0]['content'] }}"
    types_of = lambda name: Type.Q8_0 if "proj" in name else Type.F16  # noqa: E731
    return write_gguf(folder, folder / "m.gguf", types_of, metadata=tokens)


if __name__ == "__main__":
    number, seeds = (int(word) for word in (*sys.argv[1:], *("1000", "0")[len(sys.argv) - 1 :]))
    for tokenizer in ("gpt2", "llama"):
        with tempfile.TemporaryDirectory() as scratch:
            right = small_model(Path(scratch) / "right", tokenizer)
            print(tokenizer, dict(campaign(right, Path(scratch), number, seeds)))
