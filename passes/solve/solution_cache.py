"""Solved weights as files of the content-addressed cache, one entry per linear, read back lazily.

q.bin      int8 or uint8 [N, K], one byte an integer whatever its width
scale.bin  float16 [N, K/B] ([N] per channel)
zero.bin   uint8 [N, K/B] ([N] per channel), asymmetric only
facts.json what the solver said: notes for the report; how many steps its block was learned for
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ...compiler.files import cache
from ...compiler.ir.annotations import FLOAT_WEIGHT, FORMAT, Transform
from ...compiler.ir.weight_format import WeightFormat
from ...compiler.ir.weights import SourceFile, Weight, cast, derive, from_file
from ..quantization.round_to_nearest import QuantizedTensors
from .integer_grid import Grid

KIND = "solve"
VERSION = "10"  # of the solvers' arithmetic: a new one forgets what was solved before


@dataclass
class Solution:
    """Rows of one weight solved: integers [R, K], the grid they lie on, and what is worth telling."""

    q: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, q: torch.Tensor, grid: Grid, notes: list[str] | None = None) -> Solution:
        """From torch tensors."""
        zero = None if grid.zero is None else grid.zero.cpu().numpy().astype(np.uint8)
        kind = np.int8 if zero is None else np.uint8
        return cls(q.cpu().numpy().astype(kind), grid.scale.cpu().numpy().astype(np.float16), zero, notes or [])


def key(*parts: str) -> str:
    """A key that changes when any of `parts` does."""
    digest = hashlib.sha256()
    for part in (VERSION, *parts):
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def digest(weight: Weight) -> str:
    """sha256 of a weight's type, shape and content, block by block."""
    made = hashlib.sha256(f"{weight.dtype.name}{list(weight.dims)}".encode())
    if not weight.dims:
        made.update(weight.tobytes())
        return made.hexdigest()
    for _, block in weight.blocks():
        made.update(np.ascontiguousarray(block).tobytes())
    return made.hexdigest()


def known(entry_key: str) -> bool:
    """Whether the cache has a complete solution under `entry_key`, its files as they were written."""
    return cache.find(KIND, entry_key) is not None


def keep(entry_key: str, parts: Iterable[Solution], steps: int | None = None) -> None:
    """Write the entry from pieces of consecutive rows; it appears whole or not at all."""

    def build(folder: Path) -> None:
        told: list[str] = []
        for part in parts:
            arrays = {"q": part.q, "scale": part.scale, "zero": part.zero}
            for name, array in arrays.items():
                if array is not None:
                    with (folder / f"{name}.bin").open("ab") as file:
                        file.write(np.ascontiguousarray(array).tobytes())
            told += part.notes
        (folder / "facts.json").write_text(json.dumps({"notes": told, "steps": steps}))

    cache.make(KIND, entry_key, build)


def notes(entry_key: str) -> list[str]:
    """What the solver had to say."""
    return _facts(entry_key)["notes"]


def steps(entry_key: str) -> int | None:
    """How many steps the linear's block was learned for; None if it was not learned."""
    return _facts(entry_key)["steps"]


def _facts(entry_key: str) -> dict[str, Any]:
    return json.loads((cache.entry(KIND, entry_key) / "facts.json").read_text())


def load(name: str, entry_key: str, source: Weight, format_: WeightFormat) -> QuantizedTensors:
    """The lazy tensors of the entry, as `round_to_nearest.make` gives them. `name` is the weight's."""
    folder = cache.entry(KIND, entry_key)
    n, k = source.dims[0], int(np.prod(source.dims[1:], dtype=np.int64))
    grain = (n,) if format_.block is None else (n, k // format_.block)
    signed = ir.DataType.INT8 if format_.symmetric else ir.DataType.UINT8
    scale_type = ir.DataType.FLOAT16 if source.dtype == ir.DataType.FLOAT16 else ir.DataType.FLOAT

    def stored(part: str, dtype: ir.DataType, dims: tuple[int, ...]) -> Weight:
        return from_file(f"{name}.{part}", SourceFile(folder / f"{part.partition('_')[0]}.bin"), 0, dtype, dims)

    q = _narrow(stored("q", signed, source.dims), format_, source, Transform.QUANTISE)
    FLOAT_WEIGHT.set(q, source)
    FORMAT.set(q, format_)
    scale = cast(stored("scale", ir.DataType.FLOAT16, grain), scale_type)
    zero = None
    if not format_.symmetric:
        zero = _narrow(stored("zero_point", ir.DataType.UINT8, grain), format_, source, Transform.MEASURE)
    return QuantizedTensors(q, scale, zero)


def _narrow(wide: Weight, format_: WeightFormat, source: Weight, transform: Transform) -> Weight:
    """Bytes as the integers of the format."""
    target = format_.dtype.numpy()
    return derive(
        wide.name,
        format_.dtype,
        wide.dims,
        lambda a, b: wide.rows(a, b).astype(target),
        source,
        transform,
        str(format_),
    )
