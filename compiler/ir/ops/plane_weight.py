"""Weights in bit planes, as `LutGemv` and `LutDequant` hold them: their values in standard ops, and their integers.

w[n, k] = scale[n, k / B] * (u[n, k] - zero[n, k / B] / 2)          0 <= u < 2^bits

planes   uint8 [P, K/32, bits, 4, 64]    (`bit_planes.py`)              P = ceil(N / 64), panels filled up
scale    float16 [P, K/B, 64]
zero     uint8 [P, K/B, 64], or [1, 1, 1] for all blocks: zero points in halves
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..annotations import FORMAT, Transform
from ..bit_planes import EXTENT, PANEL, from_panels, from_planes, panels, to_panels, to_planes
from ..linears import Linear, QuantizedWeight
from ..module import constant
from ..sparsity import PACKED_SPARSITY, SPARSITY
from ..weight_format import WeightFormat
from ..weights import Weight, derive

# `turned` [K, N] float32 of planes, scale and zero, with the attributes bits, block_size and outputs
BODY = f"""    last = Constant <value_ints = [-1]> ()
    none = Constant <value_ints = [0]> ()
    one = Constant <value = uint8 {{1}}> ()
    places = Constant <value = uint8[8] {{0, 1, 2, 3, 4, 5, 6, 7}}> ()
    column = Unsqueeze (planes, last)
    moved = BitShift <direction = "RIGHT"> (column, places)
    bit = BitwiseAnd (moved, one)
    apart = Constant <value_ints = [0, 0, 0, 4, 16, 4, 2, 4]> ()
    by_place = Reshape (bit, apart)
    ordered = Transpose <perm = [0, 3, 4, 1, 6, 5, 7, 2]> (by_place)
    width = Constant <value_int: int = @bits> ()
    used = Reshape (width, last)
    powers = Constant <value = float[4] {{1, 2, 4, 8}}> ()
    weights = Slice (powers, none, used, none)
    digits = Cast <to = 1> (ordered)
    integers = MatMul (digits, weights)
    size = Constant <value_int: int = @block_size> ()
    block = Reshape (size, last)
    panel = Constant <value_ints = [{PANEL}]> ()
    by_block = Concat <axis = 0> (none, panel, last, block)
    half = Constant <value_float = 0.5> ()
    flat_rows = Constant <value_ints = [0, {PANEL}, -1]> ()
    rows = Reshape (integers, flat_rows)
    blocks = Reshape (rows, by_block)
    zero_float = Cast <to = 1> (zero)
    zero_halves = Mul (zero_float, half)
    zero_rows = Transpose <perm = [0, 2, 1]> (zero_halves)
    zeros = Unsqueeze (zero_rows, last)
    shifted = Sub (blocks, zeros)
    scale_float = Cast <to = 1> (scale)
    scale_rows = Transpose <perm = [0, 2, 1]> (scale_float)
    scales = Unsqueeze (scale_rows, last)
    scaled = Mul (shifted, scales)
    extents = Shape <start = 1, end = 2> (planes)
    extent = Constant <value_ints = [{EXTENT}]> ()
    inputs = Mul (extents, extent)
    flat = Concat <axis = 0> (last, inputs)
    filled = Reshape (scaled, flat)
    count = Constant <value_int: int = @outputs> ()
    end = Reshape (count, last)
    weight = Slice (filled, none, end, none)
    turned = Transpose <perm = [1, 0]> (weight)"""


def weight_use(node: ir.Node, first: int) -> Linear | None:
    """The integers [N, K] with their scales and zero points, by rows. Planes are the input `first`."""
    planes, scale, zero = (constant(value) for value in node.inputs[first : first + 3])
    value = node.inputs[first]
    if planes is None or scale is None or zero is None or value is None:
        return None
    outputs, block = node.attributes.get_int("outputs", 0), node.attributes.get_int("block_size", 32)
    bits = node.attributes.get_int("bits", 4)
    symmetric = zero.size == 1
    q = _integers(planes, outputs, bits, block, symmetric)
    # one bit stands for -1 and 1, which lie twice as far apart as 0 and 1
    held = _values(scale, outputs, ir.DataType.FLOAT, 0.5 if bits == 1 and symmetric else 1.0)
    zero_point = None if symmetric else _values(zero, outputs, ir.DataType.UINT4, 0.5)
    quant = QuantizedWeight(node, q, held, zero_point, block, 1)
    return Linear(node.name or "", "own", node, value, True, None, quant, None)


def example_weight() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Planes, scales and zero points of 70 outputs and 64 inputs in blocks of 32, 3 bits; their values [N, K]."""
    rng = np.random.default_rng(5)
    u, zero = rng.integers(0, 8, (70, 64)), rng.integers(0, 8, (70, 2))
    scale = rng.uniform(0.5, 1.5, (70, 2)).astype(np.float16)
    tensors = {
        "planes": to_planes(u.astype(np.uint8), 3),
        "scale": to_panels(scale),
        "zero": to_panels(2 * zero.astype(np.uint8)),
    }
    return tensors, (u - np.repeat(zero, 32, axis=1)) * np.repeat(scale.astype(np.float64), 32, axis=1)


def _integers(planes: Weight, outputs: int, bits: int, block: int, symmetric: bool) -> Weight:
    """Signed integers of a symmetric weight, else unsigned ones [N, K], both in four bits."""
    dtype = ir.DataType.INT4 if symmetric else ir.DataType.UINT4

    def rows(start: int, stop: int) -> np.ndarray:
        first = start // PANEL
        found = from_planes(planes.rows(first, panels(stop)))[start - first * PANEL : stop - first * PANEL]
        if not symmetric:
            return found.astype(dtype.numpy())
        signed = 2 * found.astype(np.int8) - 1 if bits == 1 else found.astype(np.int8) - (1 << (bits - 1))
        return signed.astype(dtype.numpy())

    shape = (outputs, planes.dims[1] * EXTENT)
    made = derive(planes.name, dtype, shape, rows, planes, Transform.PACK, "unpacked")
    if (pattern := PACKED_SPARSITY.get(planes)) is not None:
        SPARSITY.set(made, pattern)
    if FORMAT.get(made) is None:
        FORMAT.set(made, WeightFormat(bits, block, symmetric, method=""))
    return made


def _values(held: Weight, outputs: int, dtype: ir.DataType, factor: float) -> Weight:
    """One value a block [N, K/B], times `factor`."""

    def rows(start: int, stop: int) -> np.ndarray:
        first = start // PANEL
        found = from_panels(held.rows(first, panels(stop)))[start - first * PANEL : stop - first * PANEL]
        return (found.astype(np.float32) * np.float32(factor)).astype(dtype.numpy())

    return derive(held.name, dtype, (outputs, held.dims[1]), rows, held, Transform.CAST, "by rows")
