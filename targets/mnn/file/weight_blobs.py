"""Weights of one linear or convolution as MNN stores them in `<model>.mnn.weight`.

    quantised   u8 2 | u16 oc | u16 ic      (i32 each if one is over 65535)
                u8 2^bits mod 256 | i8 -2^(bits-1) … 2^(bits-1)-1          the code book
                u = q + 2^(bits-1) of every weight, row-major [oc][ic], packed from the high bits of each byte
                alpha [oc][blocks] scale, or [oc][blocks][2] = (zero, scale) or (minimum, scale)
                bias f32[oc]
    half        f16[oc][ic] | bias f32[oc]
    float       f32[oc][ic] | bias f32[oc]

    w[o, i] = v[o, i] * scale[o, i // block] + zero[o, i // block],   v = u - 2^(bits-1)
    w[o, i] = u[o, i] * scale[o, i // block] + minimum[o, i // block]

ONNX's unsigned integers with a zero point, w = (q - zp) * scale, have u = q and zero = (2^(bits-1) - zp) * scale. That
product needs more digits than float16 has: alpha is stored as float16 only if every value of it survives, otherwise
as float32. Weights stream in row blocks; of a matrix, only its alphas are held whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from ....compiler.emit.made_ahead import made_ahead
from ....compiler.ir.linears import QuantizedWeight
from ....compiler.ir.packing import pack_rows
from ....compiler.ir.weight_format import WeightFormat
from ....compiler.ir.weights import BLOCK_BYTES, DryWeight, Weight

NARROWEST = 2  # bits of MNN's smallest code book
LOOKED_UP = 4  # bits at least of rows that are looked up: MNN's embedding reads narrower ones wrong
ROW_MULTIPLE = 8  # eight rows fill whole bytes at any width
SHORT = 65535  # larger dimensions are stored in 32 bits


@dataclass(frozen=True)
class Blob:
    """Where one weight is stored and how it is coded; the fields of an op's Convolution2D table come from it."""

    offset: int
    code_bytes: int  # header and integers, or halves
    alpha_bytes: int
    bias_bytes: int
    rows: int
    columns: int
    bits: int  # 16: half, 32: float
    block: int  # columns per scale; 0 for floats
    symmetric: bool
    half_alpha: bool
    minimum: bool = False  # of the two floats of a block the first belongs to u = 0
    check: int | None = field(default=None, compare=False)  # CRC-32 of integers and alphas as they were written

    @property
    def external(self) -> list[int]:
        """MNN's `external` list."""
        if self.bits == 32:
            return [self.offset, self.code_bytes, self.bias_bytes]
        return [self.offset, self.code_bytes, self.alpha_bytes, self.bias_bytes, 0]

    @property
    def header_bytes(self) -> int:
        """Bytes before the integers; float weights have none."""
        return 0 if self.bits >= 16 else len(header(self.rows, self.columns, self.bits))

    @property
    def end(self) -> int:
        """The first byte behind the weight."""
        return self.offset + self.code_bytes + self.alpha_bytes + self.bias_bytes

    def parameter(self) -> dict[str, Any] | None:
        """MNN's `quanParameter`; None for float32."""
        if self.bits == 32:
            return None
        common = {"useInt32": False, "quantScale": 1.0, "scaleIn": 0.0, "scaleOut": 0.0, "weightSize": 0}
        if self.bits == 16:
            return {**common, "type": 3, "has_scaleInt": False}
        return {
            **common,
            "type": 1,
            "aMaxOrBits": self.bits,
            # aMin = 1 says that `zero` belongs to v = 0 (0 or less: to the smallest v)
            "aMin": 0 if self.symmetric else -(1 << (self.bits - 1)) if self.minimum else 1,
            "readType": 0 if self.symmetric else self.rows * (self.columns // self.block),
            "has_scaleInt": False,
            "shapeInt32": max(self.rows, self.columns) > SHORT,
            "scaleStorage": "FP16" if self.half_alpha else "FP32",
        }

    def describe(self) -> str:
        """For people: `int4 block 32 symmetric`."""
        if self.bits >= 16:
            return f"float{self.bits}"
        return WeightFormat(self.bits, None if self.block == self.columns else self.block, self.symmetric).describe()


def header(rows: int, columns: int, bits: int) -> bytes:
    """What stands before the packed integers."""
    dims = struct.pack("<ii" if max(rows, columns) > SHORT else "<HH", rows, columns)
    half = 1 << (bits - 1)
    book = np.arange(-half, half, dtype=np.int16).astype(np.int8)
    return b"\x02" + dims + bytes([(1 << bits) & 255]) + book.tobytes()


def write_quantized(
    file: BinaryIO, weight: QuantizedWeight, bias: np.ndarray | None = None, looked_up: bool = False
) -> Blob:
    """Append a quantised weight [oc, ic] (a kernel's trailing axes count as ic) with its integers as they are.

    They are stored in as many bits as they need; where rows are also `looked_up`, in four at least, and with the
    first float of a block at v = 0, which is all that MNN's embedding knows.
    """
    if isinstance(weight.q, DryWeight):
        return planned(weight, looked_up)
    rows, columns = weight.q.dims[0], int(np.prod(weight.q.dims[1:], dtype=np.int64))
    offset, block = file.tell(), weight.block or columns
    bits = max(LOOKED_UP if looked_up else NARROWEST, weight.format.bits)
    head = header(rows, columns, bits)
    file.write(head)
    written, check = len(head), 0
    lowest, alphas = weight.minimum is not None and not looked_up, []

    def made(rows: tuple[int, int]) -> tuple[bytes, np.ndarray]:  # alphas are made from the same float rows
        packed = pack_rows(codes(weight.q, *rows, bits).reshape(1, -1), bits, "big").tobytes()
        return packed, alpha_rows(weight, *rows, bits, lowest)

    for packed, alpha in made_ahead(made, row_ranges(weight)):
        check = zlib.crc32(packed, check)
        written += file.write(packed)
        alphas.append(alpha)
    values = np.concatenate(alphas)  # a sixteenth of the float32 weight at blocks of 16, less above
    half = bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))
    floats = values.astype(np.float16 if half else np.float32).tobytes()
    check = zlib.crc32(floats, check)
    alpha = file.write(floats)
    bias_bytes, symmetric = _write_bias(file, bias, rows), weight.symmetric
    return Blob(offset, written, alpha, bias_bytes, rows, columns, bits, block, symmetric, half, lowest, check)


def write_float(file: BinaryIO, weight: Weight, bias: np.ndarray | None = None) -> Blob:
    """Append a float weight: as float16 if that holds its values, otherwise as float32."""
    if isinstance(weight, DryWeight):
        return planned(weight)
    rows, columns = weight.dims[0], int(np.prod(weight.dims[1:], dtype=np.int64))
    dtype = np.float16 if half_holds(weight) else np.float32
    offset, size = file.tell(), 0
    for _, block in weight.blocks():
        size += file.write(np.ascontiguousarray(block.astype(np.float32).astype(dtype)).tobytes())
    bias_bytes = _write_bias(file, bias, rows)
    return Blob(offset, size, 0, bias_bytes, rows, columns, 8 * np.dtype(dtype).itemsize, 0, True, False)


def planned(weight: Weight | QuantizedWeight, looked_up: bool = False) -> Blob:
    """The blob that would be written for a dry weight, at no place of a file: its format is what matters."""
    dims = weight.q.dims if isinstance(weight, QuantizedWeight) else weight.dims
    rows, columns = dims[0], int(np.prod(dims[1:], dtype=np.int64))
    if isinstance(weight, QuantizedWeight):
        bits, block = max(LOOKED_UP if looked_up else NARROWEST, weight.format.bits), weight.block or columns
        return Blob(0, 0, 0, 0, rows, columns, bits, block, weight.symmetric, True)
    return Blob(0, 0, 0, 0, rows, columns, 16, 0, True, False)


def fits_half(weight: Weight) -> bool:
    """Whether float16 holds every value of `weight` without overflow."""
    limit = float(np.finfo(np.float16).max)
    return all(float(np.abs(block.astype(np.float32)).max(initial=0.0)) <= limit for _, block in weight.blocks())


def half_holds(weight: Weight) -> bool:
    """Whether float16 holds every value of `weight` without overflow, and every row of it with all its digits.

    Below 2^-14 float16 has fewer digits, below 2^-25 none: a row whose largest value is there would be lost.
    """
    info = np.finfo(np.float16)
    for _, block in weight.blocks():
        largest = np.abs(block.astype(np.float32)).reshape(len(block), -1).max(axis=1, initial=0.0)
        if largest.max(initial=0.0) > info.max or ((largest > 0) & (largest < info.smallest_normal)).any():
            return False
    return True


def codes(q: Weight, start: int, stop: int, bits: int) -> np.ndarray:
    """What is stored of rows [start, stop) of the integers `q`: u [rows, ...], a byte each, from zero up."""
    if not q.dtype.is_signed():
        return q.rows(start, stop).astype(np.uint8)
    return q.rows(start, stop).astype(np.int8).view(np.uint8) + np.uint8(1 << (bits - 1))  # goes round at 256


def alpha_of(scale: np.ndarray, zero: np.ndarray | None, bits: int) -> np.ndarray:
    """MNN's alpha of ONNX's scale and zero point: [oc, blocks], or [oc, blocks, 2]; exact in float32."""
    scale = scale.astype(np.float32)
    if zero is None:
        return scale
    shift = (float(1 << (bits - 1)) - zero.astype(np.float32)) * scale
    return np.stack([shift, scale], axis=-1)


def alpha_rows(weight: QuantizedWeight, start: int, stop: int, bits: int, lowest: bool) -> np.ndarray:
    """MNN's alphas of rows [start, stop) of `weight`, float32: [rows, blocks] or [rows, blocks, 2].

    `lowest`: a block's first float is its minimum, at u = 0; else the value at v = 0.
    """
    scale = weight.scale.rows(start, stop).reshape(stop - start, -1)
    if weight.minimum is not None:
        first = weight.minimum.rows(start, stop).astype(np.float32)
        return np.stack([first if lowest else first + np.float32(1 << (bits - 1)) * scale, scale], axis=-1)
    zero = None if weight.zero_point is None else weight.zero_point.rows(start, stop).reshape(scale.shape)
    return alpha_of(scale, zero, bits)


def row_ranges(weight: QuantizedWeight) -> Iterator[tuple[int, int]]:
    """The rows of `weight` in ranges whose float32 form is of bounded size and that fill whole bytes."""
    rows, columns = weight.q.dims[0], int(np.prod(weight.q.dims[1:], dtype=np.int64))
    step = max(ROW_MULTIPLE, BLOCK_BYTES // (4 * columns) // ROW_MULTIPLE * ROW_MULTIPLE)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _write_bias(file: BinaryIO, bias: np.ndarray | None, rows: int) -> int:
    values = np.zeros(rows, np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)
    if values.shape != (rows,):
        raise ValueError(f"a bias of shape {values.shape} for {rows} outputs")
    return file.write(values.tobytes())
