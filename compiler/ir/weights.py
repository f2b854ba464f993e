"""Weights that are described, not held: lazy tensors read and made in blocks of rows.

A `Weight` of shape [R, ...] knows how to make its rows [start, stop); nothing else is kept in memory. A pass derives
one weight from others (`derive`), row range by row range, and an emitter streams the blocks into a file. Files are
read with `pread`, because mapped pages count as resident memory.

    q[r, K] = quantise(w[r, K])    is   derive("w.q", INT4, (N, K), lambda a, b: quantise(w.rows(a, b)), w, QUANTISE)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir

from ..files.positional_read import SourceFile
from .annotations import Transform, carry
from .packing import pack_rows, unpack_rows

BLOCK_BYTES = 8 << 20  # of the float32 form of a block; bounds what a pass holds of one tensor

Rows = Callable[[int, int], np.ndarray]


class Weight(ir.TensorProtocol):
    """A tensor made on demand. `rows(start, stop)` is the unit; `numpy()` makes it whole and keeps nothing."""

    def __init__(self, name: str, dtype: ir.DataType, shape: Sequence[int], rows: Rows, origin: str) -> None:
        self.name: str = name  # pyright: ignore[reportIncompatibleVariableOverride] - a weight always has one
        self.doc_string: str | None = None
        self.dtype: ir.DataType = dtype
        self.shape: ir.ShapeProtocol = ir.Shape(shape)
        self.dims: tuple[int, ...] = tuple(int(d) for d in shape)  # the shape as integers
        self.metadata_props: MutableMapping[str, str] = {}
        self.meta: MutableMapping[str, Any] = {}
        self.origin = origin  # for people: "model.safetensors:… > float32 > int4 block 32"
        self.ended: tuple[str, ...] = ()  # facts about what it is made from that are none about it, in words
        self._rows = rows
        self._parent_row_bytes = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed form; texts have none."""
        return 0 if self.dtype == ir.DataType.STRING else (self.size * self.dtype.bitwidth + 7) // 8

    @property
    def row_bytes(self) -> int:
        """What one row takes as float32, or a row of what it is made from (a scale stands for many weights)."""
        dims = self.dims
        own = 4 * math.prod(dims[1:]) if len(dims) > 1 else 4
        return max(own, self._parent_row_bytes)

    @property
    def raw(self) -> Weight:
        """What onnx-ir serialises: the weight itself."""
        return self

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of axis 0; int4 comes unpacked, one ml_dtypes element each."""
        made = self._rows(start, stop)
        expected = (stop - start, *self.dims[1:])
        if made.shape != expected:
            raise ValueError(f"weight `{self.name}` made rows of shape {made.shape}, expected {expected}")
        return made

    def blocks(self, limit: int = BLOCK_BYTES, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows) so that the float32 form of each block, and of the rows it is made from, stays
        within `limit` bytes."""
        dims = self.dims
        step = max(1, limit // max(1, self.row_bytes))
        step = max(multiple, step - step % multiple)
        for start in range(0, dims[0], step):
            yield start, self.rows(start, min(start + step, dims[0]))

    def numpy(self) -> np.ndarray:
        """All rows as one array; 4-bit integers come unpacked."""
        return self.rows(0, self.dims[0]) if self.dims else self._rows(0, 1).reshape(())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self.numpy().__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __repr__(self) -> str:
        return f"Weight({self.name}: {self.dtype.name}{list(self.dims)} from {self.origin})"

    def tobytes(self) -> bytes:
        """All rows in the packed little-endian form of ONNX."""
        return pack(self.numpy(), self.dtype)

    def tofile(self, file: BinaryIO) -> None:
        """Stream the packed little-endian bytes, block by block."""
        if not self.dims or not self._rows_are_whole_bytes():
            file.write(self.tobytes())
            return
        for _, block in self.blocks():
            file.write(pack(block, self.dtype))

    def _rows_are_whole_bytes(self) -> bool:
        per_row = int(np.prod(self.dims[1:], dtype=np.int64)) if len(self.dims) > 1 else 1
        return (per_row * self.dtype.bitwidth) % 8 == 0


class WeightsUnread(Exception):
    """Somebody asked for the numbers of a weight in a dry run, which reads none."""


class DryWeight(Weight):
    """A weight in a dry run: its name, type and shape. Whatever is derived from it is dry too."""

    def __init__(self, name: str, dtype: ir.DataType, shape: Sequence[int], origin: str) -> None:
        super().__init__(name, dtype, shape, self._refuse, origin)

    def _refuse(self, _start: int, _stop: int) -> np.ndarray:
        raise WeightsUnread(f"`{self.name}` is not read in a dry run")


def numbers(weight: Weight) -> np.ndarray:
    """`weight.numpy()`; of a dry weight ones, for what a dry run makes and throws away."""
    if isinstance(weight, DryWeight):
        return np.broadcast_to(np.ones((), weight.dtype.numpy()), weight.dims)
    return weight.numpy()


def pack(array: np.ndarray, dtype: ir.DataType) -> bytes:
    """ONNX's raw bytes of `array`: little endian, sub-byte types packed low bits first."""
    if dtype.bitwidth >= 8:
        return np.ascontiguousarray(array).tobytes()
    return pack_rows(array.reshape(1, -1).astype(np.int8), dtype.bitwidth, "little").tobytes()


def unpack(raw: bytes | bytearray, dtype: ir.DataType, count: int) -> np.ndarray:
    """The inverse of `pack`: `count` elements of `dtype` from ONNX's raw bytes."""
    if dtype.bitwidth >= 8:
        return np.frombuffer(raw, dtype=dtype.numpy(), count=count)
    bits = dtype.bitwidth
    fields = unpack_rows(np.frombuffer(raw, np.uint8)[None], bits, count, "little")[0].astype(np.int8)
    if dtype.is_signed():
        fields = (fields ^ (1 << (bits - 1))) - (1 << (bits - 1))
    return fields.astype(dtype.numpy())


def from_file(name: str, source: SourceFile, offset: int, dtype: ir.DataType, shape: Sequence[int]) -> Weight:
    """A weight stored row-major at `offset` of `source`. Sub-byte rows must fill whole bytes."""
    dims = tuple(int(d) for d in shape)
    per_row = int(np.prod(dims[1:], dtype=np.int64)) if len(dims) > 1 else 1
    row_bits = per_row * dtype.bitwidth

    def rows(start: int, stop: int) -> np.ndarray:
        count = (stop - start) * per_row
        begin = start * row_bits
        if begin % 8:
            raise ValueError(f"`{name}`: row {start} does not begin at a byte")
        raw = source.read(offset + begin // 8, (count * dtype.bitwidth + 7) // 8)
        return unpack(raw, dtype, count).reshape((stop - start, *dims[1:]))

    return Weight(name, dtype, dims, rows, f"{source.path.name}:{name}")


def from_array(name: str, array: np.ndarray, origin: str = "computed") -> Weight:
    """A small weight held in memory (a norm's gain, a scale, a shape constant)."""
    held = np.array(array)  # a copy: later changes of the caller's array must not show
    dtype = ir.DataType.from_numpy(held.dtype)
    if held.ndim == 0:
        return Weight(name, dtype, (), lambda _a, _b: held.reshape(1), origin)
    return Weight(name, dtype, held.shape, lambda a, b: held[a:b], origin)


def derive(
    name: str,
    dtype: ir.DataType,
    shape: Sequence[int],
    rows: Rows,
    parent: Weight,
    transform: Transform,
    how: str | None = None,
) -> Weight:
    """A weight made from others, row range by row range; `how` extends the parent's origin."""
    origin = f"{parent.origin} > {how or transform.value}"
    dry = isinstance(parent, DryWeight)
    made = DryWeight(name, dtype, shape, origin) if dry else Weight(name, dtype, shape, rows, origin)
    made._parent_row_bytes = parent.row_bytes
    made.ended = (*parent.ended, *carry(parent, made, transform, name))
    return made


def cast(weight: Weight, dtype: ir.DataType) -> Weight:
    """`weight` in another float type, converted as it is read."""
    if weight.dtype == dtype:
        return weight
    target = dtype.numpy()
    return derive(
        weight.name,
        dtype,
        weight.dims,
        lambda a, b: weight.rows(a, b).astype(target),
        weight,
        Transform.CAST,
        dtype.name.lower(),
    )


def slice_rows(name: str, weight: Weight, start: int, stop: int) -> Weight:
    """Rows [start, stop) of a stored weight as a weight of their own; facts about the whole do not come along."""
    dims = (stop - start, *weight.dims[1:])
    if isinstance(weight, DryWeight):
        return DryWeight(name, weight.dtype, dims, weight.origin)
    return Weight(name, weight.dtype, dims, lambda a, b: weight.rows(start + a, start + b), weight.origin)


def transpose(weight: Weight) -> Weight:
    """[K, N] seen as [N, K]. Reads the source whole per block of rows: meant for imported graphs only."""
    k, n = weight.dims

    def rows(start: int, stop: int) -> np.ndarray:
        strip = np.empty((k, stop - start), weight.dtype.numpy())
        for first, block in weight.blocks():
            strip[first : first + len(block)] = block[:, start:stop]
        return strip.T

    return derive(f"{weight.name}.T", weight.dtype, (n, k), rows, weight, Transform.TRANSPOSE, "transposed")


def as_weight(tensor: ir.TensorProtocol) -> Weight:
    """Any onnx-ir tensor as a Weight; external data is read in rows, inline data is already in memory."""
    if isinstance(tensor, Weight):
        return tensor
    made = _described(tensor)
    made.meta.update(tensor.meta)
    made.metadata_props.update(tensor.metadata_props)
    return made


def _described(tensor: ir.TensorProtocol) -> Weight:
    name = tensor.name or ""
    if isinstance(tensor, ir.ExternalTensor) and tensor.shape.rank() > 0:
        dims = [int(d) for d in tensor.shape.numpy()]
        width = int(np.prod(dims[1:], dtype=np.int64)) * tensor.dtype.bitwidth
        if width % 8 == 0:
            return from_file(name, SourceFile(Path(tensor.path)), tensor.offset or 0, tensor.dtype, dims)
    shape = [int(d) for d in tensor.shape.numpy()]
    if not shape:
        return Weight(name, tensor.dtype, (), lambda _a, _b: np.asarray(tensor.numpy()).reshape(1), "graph")
    return Weight(name, tensor.dtype, shape, lambda a, b: np.asarray(tensor.numpy())[a:b], "graph")
