"""Checkpoints of real sizes with made-up weights, for benchmarks of time, memory and bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from common import QWEN3, QWEN3_CONFIG

QWEN3_0_6B = {
    **QWEN3_CONFIG,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "eos_token_id": 2,
    "bos_token_id": 0,
}
QWEN3_4B = {
    **QWEN3_0_6B,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
}
_BLOCK = 1 << 22  # weights made at once


def synthesize(folder: Path, config: Mapping[str, Any], repeat: bool = False) -> int:
    """Write a checkpoint of random bf16 weights, block by block; returns its bytes.

    `repeat`: every tensor repeats one block of 4 M weights, which is made much faster.
    """
    from edgec.compiler.sources.hf.read_decoder_arch import read_arch

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes((QWEN3 / name).read_bytes())
    header: dict[str, object] = {}
    offset = 0
    tensors = read_arch(folder).tensors()
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        header[f"model.{name}"] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    blocks = _blocks(repeat)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for shape in tensors.values():
            _write(file, shape, blocks)
    return offset


def _blocks(repeat: bool) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    block = rng.standard_normal(_BLOCK, np.float32)
    while True:
        yield block
        if not repeat:
            block = rng.standard_normal(_BLOCK, np.float32)


def _write(file: BinaryIO, shape: tuple[int, ...], blocks: Iterator[np.ndarray]) -> None:
    if len(shape) == 1:  # gains of a norm
        file.write(_bf16(np.ones(shape, np.float32)))
        return
    scale, left = np.float32(shape[-1] ** -0.5), int(np.prod(shape))
    while left:
        values = next(blocks)[:left]
        file.write(_bf16(values * scale))
        left -= len(values)


def _bf16(values: np.ndarray) -> bytes:
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
