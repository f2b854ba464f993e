"""Model folders as accidents and enemies make them: configs, headers, indices and tokenizer files, changed.

    python tests/load/mutate_folder.py FOLDER [CASES]      each case is checked as `edgec check` would, in this process

A case holds if the answer is an outline or a coded error: nothing that Python raises by itself. Prints what does not.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.sources.hf.hf_source import HfSource
from edgec.compiler.sources.tokenizer.text_config import read_sampling, read_text_config
from edgec.compiler.sources.tokenizer.tokenizer_file import open_tokenizer, read_tokenizer

JSONS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")
VALUES: tuple[Any, ...] = (
    None,
    0,
    -1,
    1,
    2**31,
    10**30,
    0.5,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    True,
    "",
    "x",
    "\ud800",
    "../../etc/passwd",
    "a" * 5000,
    [],
    [1],
    ["x", 2],
    {},
    {"content": 1},
    {"a": {"b": []}},
)


def places(value: Any, path: tuple[Any, ...] = (), most: int = 40) -> Iterator[tuple[Any, ...]]:
    """Places in a JSON document; of long lists and tables only the first few."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:most]:
        yield from places(inner, (*path, key), 3)


def put(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of `data` with another value at `path`."""
    made = copy.deepcopy(data)
    inner = made
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return made


def json_cases(folder: Path, chance: random.Random) -> Iterator[tuple[str, str, bytes]]:
    """(name, file, content) with one value of one JSON file changed, or the file cut, flipped or of another kind."""
    for name in JSONS:
        raw = (folder / name).read_bytes() if (folder / name).is_file() else b"{}"
        data = json.loads(raw)
        if name == "generation_config.json":
            data = {"top_k": 1, "top_p": 0.5, "temperature": 1.0, "do_sample": True, "eos_token_id": [1], **data}
        if name == "config.json":
            data |= {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "head_dim": 32, "layer_types": None}
        for path in places(data):
            for value in VALUES:
                if name == "tokenizer.json" and chance.random() > 0.2:
                    continue
                yield (
                    f"{name}:{'.'.join(map(str, path))}={value!r:.30}",
                    name,
                    json.dumps(put(data, path, value)).encode(),
                )
        for cut in (0, 1, len(raw) // 2, len(raw) - 1):
            yield f"{name}:cut at {cut}", name, raw[:cut]
        for odd in (
            b"[]",
            b"null",
            b"1",
            b"{" * 2000,
            b"\xff\xfe",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        ):
            yield f"{name}:{odd[:20]!r}", name, odd


def header_cases(folder: Path, chance: random.Random) -> Iterator[tuple[str, str, bytes]]:
    """(name, file, content) with the header of the weights changed."""
    raw = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]

    def file(made: Any) -> bytes:
        text = json.dumps(made).encode()
        return struct.pack("<Q", len(text)) + text + data

    for path in places(header, most=12):
        for value in (*VALUES, [0, 4], [4, 0], [0, 2**63], "F64", "I8"):
            yield (
                f"header:{'.'.join(map(str, path))}={value!r:.30}",
                "model.safetensors",
                file(put(header, path, value)),
            )
    for size in (0, 1, 7, 8, length - 1, length + 1, 2**40, 2**64 - 1):
        yield f"header length {size}", "model.safetensors", struct.pack("<Q", size) + raw[8:]
    for _ in range(60):
        at = chance.randrange(8 + length)
        yield (
            f"flip at {at}",
            "model.safetensors",
            raw[:at] + bytes([raw[at] ^ (1 << chance.randrange(8))]) + raw[at + 1 :],
        )
    for more in (b"x", b"\0" * 64):
        yield "bytes behind", "model.safetensors", raw + more
    for index in (
        {"weight_map": {"a": "x" * 300}},
        {"weight_map": []},
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": "../x"}},
    ):
        yield f"index {index!r:.40}", "model.safetensors.index.json", json.dumps(index).encode()


def answer(folder: Path) -> str | None:
    """What is wrong with how a folder is taken; None if it is outlined, or refused with a code."""
    try:
        HfSource().outline(folder)
        read_text_config(folder)
        read_sampling(folder)
        if (folder / "tokenizer.json").is_file():
            read_tokenizer(folder / "tokenizer.json")
            open_tokenizer(folder / "tokenizer.json")
    except EdgecError as error:
        first = error.diagnostics[0]
        return None if first.code not in ("E0955", "E0993") else f"{first.code}: {first.message[:200]}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def campaign(folder: Path, most: int | None = None, seed: int = 0) -> tuple[int, list[str]]:
    """(cases, what did not hold); `most`: only so many, chosen by `seed`."""
    chance = random.Random(seed)
    chosen = None
    if most is not None:
        whole = sum(1 for _ in _cases(folder, seed))
        chosen = set(chance.sample(range(whole), min(most, whole)))
    tried, wrong = 0, []
    with tempfile.TemporaryDirectory(prefix="mutate-") as made:
        copy_ = Path(shutil.copytree(folder, Path(made) / "m"))
        for number, (name, file, content) in enumerate(_cases(folder, seed)):
            if chosen is not None and number not in chosen:
                continue
            tried += 1
            path = copy_ / file
            before = path.read_bytes() if path.is_file() else None
            single = copy_ / "model.safetensors"
            moved = file.endswith(".index.json") and single.is_file()
            if moved:
                single.rename(copy_ / "aside")
            path.write_bytes(content)
            if (why := answer(copy_)) is not None:
                wrong.append(f"{name}: {why}")
            if moved:
                (copy_ / "aside").rename(single)
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)
    return tried, wrong


def _cases(folder: Path, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """All of them, the same for one seed; each holds a whole file, so there is one at a time."""
    chance = random.Random(seed)
    yield from json_cases(folder, chance)
    yield from header_cases(folder, chance)


if __name__ == "__main__":
    tried, found = campaign(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
    print("\n".join(found))
    print(f"{tried} folders, {len(found)} not taken as they should be")
    sys.exit(1 if found else 0)
