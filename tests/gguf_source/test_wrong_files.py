"""What a wrong GGUF is told: each fault by its code, naming the file and the way out; nothing is left behind."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import Diagnostic, PlanError
from edgec.compiler.sources.gguf.gguf_source import GgufSource

from .make_gguf import Type, write_gguf

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "models" / "pycode-qwen2"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """A right file."""
    return write_gguf(MODEL, tmp_path_factory.mktemp("whole") / "m.gguf").read_bytes()


def refused(path: Path) -> Diagnostic:
    """The one diagnostic of checking `path`, which names the file and a way out."""
    with pytest.raises(PlanError) as caught:
        GgufSource().outline(path)
    (diagnostic,) = caught.value.diagnostics
    assert str(path) in diagnostic.message
    assert not (path.parent / "cache").exists()
    return diagnostic


def changed(at: bytes, new: bytes, skip: int = 0) -> Callable[[bytes], bytes]:
    """Bytes with `new` written `skip` bytes behind the first `at`."""

    def change(raw: bytes) -> bytes:
        start = raw.index(at) + len(at) + skip
        return raw[:start] + new + raw[start + len(new) :]

    return change


def number(value: int) -> bytes:
    return struct.pack("<I", value)


BYTES: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "empty": (lambda raw: b"", "E0341", "does not begin with `GGUF`"),
    "git-lfs pointer": (lambda raw: b"version https://git-lfs.github.com/spec/v1\n", "E0341", "no GGUF file"),
    "version 1": (changed(b"GGUF", number(1)), "E0341", "of version 1"),
    "big endian": (changed(b"GGUF", struct.pack(">I", 3)), "E0341", "(big endian)"),
    "only the magic": (lambda raw: raw[:4], "E0342", "its header does not end within its 4 bytes"),
    "cut in the metadata": (lambda raw: raw[:400], "E0342", "its header does not end"),
    "cut in the vocabulary": (lambda raw: raw[:20_000], "E0342", "its header does not end"),
    "cut in the weights": (lambda raw: raw[:-1024], "E0342", "ends 512 bytes beyond the file"),
    "huge count": (changed(b"GGUF" + number(3), struct.pack("<Q", 1 << 60)), "E0341", "header"),
    "huge array": (changed(b"tokenizer.ggml.tokens", struct.pack("<Q", 1 << 60), 8), "E0342", "cut short"),
    "unknown value type": (changed(b"qwen2.block_count", number(77)), "E0341", "has type 77"),
    "nested array": (changed(b"tokenizer.ggml.tokens", number(9), 4), "E0341", "array of type 9"),
    "key that is no text": (changed(b"qwen2.", b"\xff"), "E0341", "a key is not UTF-8"),
    "unknown ggml type": (changed(b"token_embd.weight", number(99), 20), "E0346", "ggml type 99"),
    "a type nobody dequantises": (changed(b"token_embd.weight", number(26), 20), "E0346", "stored as I32"),
}


@pytest.mark.parametrize("name", BYTES)
def test_wrong_bytes(tmp_path, whole, name):
    change, code, said = BYTES[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(change(whole))
    diagnostic = refused(path)
    assert (diagnostic.code, said in diagnostic.message) == (code, True), diagnostic.message
    assert diagnostic.help


CONTENT: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "architecture": ({"general.architecture": "mamba"}, {}, "E0332", "`mamba`"),
    "a key that is missing": ({"qwen2.block_count": None}, {}, "E0336", "has no `qwen2.block_count`"),
    "a key of another kind": ({"qwen2.block_count": "two"}, {}, "E0336", '"two"'),
    "a key that is not read": (
        {"qwen2.attention.sliding_window": 512},
        {},
        "E0333",
        "`qwen2.attention.sliding_window`",
    ),
    "experts": ({"qwen2.expert_count": 8}, {}, "E0333", "`qwen2.expert_count` to 8"),
    "partial rotary": ({"qwen2.rope.dimension_count": 16}, {}, "E0333", "partial rotary"),
    "rope scaling": ({"qwen2.rope.scaling.type": "longrope"}, {}, "E0334", "`longrope`"),
    "heads": ({"qwen2.attention.head_count_kv": 3}, {}, "E0337", "cannot share 3"),
    "pieces": ({"split.count": 3}, {}, "E0333", "one of 3 pieces"),
    "adapter": ({"general.type": "adapter"}, {}, "E0333", "`general.type` is `adapter`"),
    "more layers than tensors": ({"qwen2.block_count": 3}, {}, "E0343", "lacks `blk.2.attn_norm.weight`"),
    "fewer layers than tensors": ({"qwen2.block_count": 1}, {}, "E0344", "`blk.1."),
    "another width": ({"qwen2.feed_forward_length": 100}, {}, "E0345", "the metadata asks for [100, 128]"),
    "a tensor too many": ({}, {"v.patch_embd.weight": np.zeros((4, 4), np.float32)}, "E0344", "`v.patch_embd.weight`"),
    "a tensor too few": ({}, {"blk.1.ffn_up.weight": None}, "E0343", "lacks `blk.1.ffn_up.weight`"),
    "tokens beyond the embedding": ({"qwen2.vocab_size": 2000}, {}, "E0345", "token_embd.weight"),
    "tokenizer": ({"tokenizer.ggml.model": "rwkv"}, {}, "E0348", "of the kind `rwkv`"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_wrong_content(tmp_path, name):
    metadata, tensors, code, said = CONTENT[name]
    diagnostic = refused(write_gguf(MODEL, tmp_path / "m.gguf", metadata=metadata, tensors=tensors))
    assert (diagnostic.code, said in diagnostic.message) == (code, True), diagnostic.message


def test_the_message_of_a_tokenizer_that_cannot_be_converted(tmp_path, golden_error):
    path = write_gguf(MODEL, tmp_path / "m.gguf", metadata={"tokenizer.ggml.pre": "klingon"})
    golden_error("E0348", [refused(path)], hide={str(tmp_path): "TMP"})


def test_rows_that_are_no_numbers(tmp_path):
    wrong = np.zeros((2048, 128), np.float32)
    wrong[1999, 3] = np.inf
    path = write_gguf(MODEL, tmp_path / "m.gguf", tensors={"token_embd.weight": wrong})
    module = GgufSource().load("m", path, 64)
    weight = module.main.graph.initializers["embed_tokens.weight"].const_value
    assert weight is not None
    with pytest.raises(PlanError, match=r"`token_embd.weight` in .* holds NaN or infinity in row 1999"):
        weight.numpy()


def test_half_precision_vectors_are_read(tmp_path):
    path = write_gguf(MODEL, tmp_path / "m.gguf", lambda _name: Type.BF16)
    GgufSource().load("m", path, 64)
