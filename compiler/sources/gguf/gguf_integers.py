"""The integers inside a GGUF's blocks, as they are stored.

    Q4_0   f16 d | 16 bytes        w = (q - 8) * d         byte j: q[j] in its low half, q[j + 16] in its high half
    Q4_1   f16 d | f16 m | 16 bytes    w = q * d + m
    Q8_0   f16 d | i8 q[32]            w = q * d

Other types are no grid of blocks with one scale each; of them only the name and the width are told.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ...ir.decoder_arch import DecoderArch
from ...ir.stored_integers import StoredIntegers
from ...ir.weights import Weight
from ..finite_rows import finite
from .gguf_file import StoredBlocks
from .gguf_tensors import raw_rows

_BLOCK = 32
_KEPT = {"Q4_0": ir.DataType.INT4, "Q4_1": ir.DataType.UINT4, "Q8_0": ir.DataType.INT8}
_FLOATS = ("F32", "F16", "BF16")
_WIDE = (5, 6, 8)  # bits that only 8-bit integers hold


def integers_of(name: str, stored: StoredBlocks, arch: DecoderArch) -> StoredIntegers | None:
    """What the tensor `name` of `arch` is stored in; None for floats and vectors."""
    kind = stored.type.name
    if kind in _FLOATS or len(stored.shape) == 1:
        return None
    if kind not in _KEPT:
        nominal = next(int(digit) for digit in kind if digit.isdigit())
        return StoredIntegers(kind, 8 if nominal in _WIDE else min(max(nominal, 2), 4), _BLOCK)
    rows, columns = stored.shape
    first = 2 if kind != "Q4_1" else 4  # where the integers of a block begin

    def part(name_: str, dtype: ir.DataType, width: int, read: Callable[[np.ndarray], np.ndarray]) -> Weight:
        def values(start: int, stop: int) -> np.ndarray:
            raw = raw_rows(name, stored, arch, start, stop).reshape(stop - start, -1, stored.type.size)
            return read(raw).reshape(stop - start, width)

        weight = Weight(
            f"{name}.{name_}", dtype, (rows, width), values, f"{stored.file.path.name}:{stored.name} {kind}"
        )
        return finite(weight, stored.name, stored.file.path) if dtype == ir.DataType.FLOAT else weight

    def floats(at: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda raw: np.ascontiguousarray(raw[..., at : at + 2]).view(np.float16).astype(np.float32)

    dtype, blocks = _KEPT[kind], columns // _BLOCK
    q = part("q", dtype, columns, lambda raw: _integers(raw[..., first:], kind).astype(dtype.numpy()))
    scale = part("scale", ir.DataType.FLOAT, blocks, floats(0))
    minimum = part("minimum", ir.DataType.FLOAT, blocks, floats(2)) if kind == "Q4_1" else None
    return StoredIntegers(kind, dtype.bitwidth, _BLOCK, q, scale, minimum)


def _integers(raw: np.ndarray, kind: str) -> np.ndarray:
    if kind == "Q8_0":
        return np.ascontiguousarray(raw).view(np.int8)
    halves = np.concatenate([raw & 15, raw >> 4], axis=-1).astype(np.int8)
    return halves - np.int8(8) if kind == "Q4_0" else halves
