"""The weight layout of ONNX Runtime's MatMulNBits and GatherBlockQuantized, made and read row by row.

    B[n, k // block, :] = the `block` integers of one scale, b bits each, low bits first   uint8 [N, K/block, block*b/8]
    scales[n, k // block]                                                   float32 or float16 [N, K/block]
    zero_points[n, :]    = b bits each, low bits first, rows filled up to whole bytes       uint8 [N, ceil(K/block*b/8)]

    w[n, k] = (B[n, k] - zero_points[n, k // block]) * scales[n, k // block]              zero point 2^(b-1) if absent

A block with a float minimum m (GGUF's Q4_1) has the float32 zero point -m / scale, which MatMulNBits takes too.

Integers are stored without sign, so a signed q is stored as q + 2^(b-1), whose zero point is the one that holds when
none is given. A row with one scale for all its inputs repeats it for blocks that divide the row; where none does, the
last block is filled up with zeros, which the kernel does not read.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...compiler.ir.annotations import FORMAT, Transform
from ...compiler.ir.linears import QuantizedWeight
from ...compiler.ir.packing import pack_rows
from ...compiler.ir.weights import Weight, derive

_CHANNEL_BLOCKS = (128, 64, 32, 16)
_UNEVEN_BLOCK = 32
FLAT = 2.0**-100  # the scale of a block whose weights are all its minimum: its integers add nothing
WIDTHS = (2, 4, 8)


def stored_block(quant: QuantizedWeight) -> int:
    """The block size written: the weight's own, or one to repeat a row's scale over."""
    if quant.block is not None:
        return quant.block
    k = quant.q.dims[1]
    return next((block for block in _CHANNEL_BLOCKS if k % block == 0), _UNEVEN_BLOCK)


def stored_bits(quant: QuantizedWeight) -> int:
    """The width written: 2, 4 or 8; 3-bit integers are stored in 4."""
    return next((width for width in WIDTHS if quant.format.bits <= width), quant.bits)


def is_packable(quant: QuantizedWeight) -> str | None:
    """Why this weight cannot be written in the layout; None if it can."""
    if len(quant.q.dims) != 2:
        return "it is no matrix"
    if quant.bits not in WIDTHS:
        return f"{quant.bits}-bit integers were not checked on this kernel"
    if quant.axis != (0 if quant.block is None else 1):
        return f"its scales run along axis {quant.axis}"
    if quant.scale.dtype != ir.DataType.FLOAT:
        return f"its scales are {quant.scale.dtype.name.lower()}"
    block = stored_block(quant)
    if block < 16 or block & (block - 1):
        return f"a block of {block} is no power of two from 16"
    if quant.block is not None and quant.q.dims[1] % block:
        return f"a block of {block} does not divide {quant.q.dims[1]} inputs"
    return None


def block_count(k: int, block: int) -> int:
    """Blocks of `block` columns that cover `k` columns; the last may be partly padding."""
    return -(-k // block)


def packed(name: str, quant: QuantizedWeight, flat: bool = False) -> Weight:
    """`B`; `flat` gives it as [N, bytes], as GatherBlockQuantized wants it."""
    n, k = quant.q.dims
    block, bits = stored_block(quant), stored_bits(quant)
    blocks = block_count(k, block)
    shape = (n, blocks * block * bits // 8) if flat else (n, blocks, block * bits // 8)

    def rows(start: int, stop: int) -> np.ndarray:
        q = unsigned(quant, quant.q.rows(start, stop))
        q = np.pad(q, ((0, 0), (0, blocks * block - k)))
        return pack_rows(q, bits, "little").reshape((stop - start, *shape[1:]))

    return derive(
        f"{name}.packed", ir.DataType.UINT8, shape, rows, quant.q, Transform.PACK, f"packed, blocks of {block}"
    )


def scales(name: str, quant: QuantizedWeight, half: bool = False) -> Weight:
    """The scales as float32, or float16, [N, blocks]; a scale per channel is repeated for each block."""
    n, k = quant.q.dims
    blocks = block_count(k, stored_block(quant))
    dtype = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT

    def rows(start: int, stop: int) -> np.ndarray:
        found = _per_block(quant.scale.rows(start, stop), blocks)
        if quant.minimum is not None:
            found = np.where(found == 0, np.float32(FLAT), found)
        return found.astype(dtype.numpy())

    return derive(f"{name}.scales", dtype, (n, blocks), rows, quant.scale, Transform.CAST, "per block")


def scales_fit_half(quant: QuantizedWeight) -> bool:
    """Whether float16 holds every scale exactly. `quantize` rounds its scales to it; stored ones are looked at."""
    if quant.minimum is not None:
        return False  # a block of equal weights has a scale below float16's
    made = FORMAT.get(quant.q)
    if made is not None and made.method not in ("", "keep"):
        return True
    with np.errstate(over="ignore"):
        return all(np.array_equal(block, block.astype(np.float16)) for _, block in quant.scale.blocks())


def zero_points(name: str, quant: QuantizedWeight) -> Weight | None:
    """None for symmetric weights: the kernel's own zero point is theirs."""
    given = quant.zero_point
    if given is None and quant.q.dtype.is_signed():
        return None
    n, k = quant.q.dims
    blocks = block_count(k, stored_block(quant))
    if quant.minimum is not None:
        return _from_minimums(name, quant, quant.minimum)

    def rows(start: int, stop: int) -> np.ndarray:
        if given is None:
            zero = np.zeros((stop - start, blocks), np.uint8)
        else:
            zero = unsigned(quant, _per_block(given.rows(start, stop), blocks))
        return pack_rows(zero, bits, "little")

    bits = stored_bits(quant)
    width = (blocks * bits + 7) // 8
    return derive(
        f"{name}.zero_points", ir.DataType.UINT8, (n, width), rows, quant.q, Transform.MEASURE, "packed zero points"
    )


def unsigned(quant: QuantizedWeight, q: np.ndarray) -> np.ndarray:
    """Integers `q` moved to [0, 2^bits) by half the range if they are signed, uint8."""
    shift = 1 << (stored_bits(quant) - 1) if quant.q.dtype.is_signed() else 0
    return (q.astype(np.int16) + shift).astype(np.uint8)


def _per_block(values: np.ndarray, blocks: int) -> np.ndarray:
    return np.repeat(values[:, None], blocks, axis=1) if values.ndim == 1 else values


def _from_minimums(name: str, quant: QuantizedWeight, minimum: Weight) -> Weight:
    """Float zero points [N, blocks] that stand for a smallest value per block."""

    def rows(start: int, stop: int) -> np.ndarray:
        scale = quant.scale.rows(start, stop).astype(np.float64)
        return (-minimum.rows(start, stop) / np.where(scale == 0, FLAT, scale)).astype(np.float32)

    return derive(
        f"{name}.zero_points",
        ir.DataType.FLOAT,
        minimum.dims,
        rows,
        minimum,
        Transform.MEASURE,
        "minus minimum / scale",
    )
