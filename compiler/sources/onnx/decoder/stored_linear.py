"""Constant weights of linears that an exported decoder stores as integers, as float rows with the integers beside them.

    MatMulNBits(x, B uint8 [N, K/B, B*bits/8], scale [N, K/B], zero_point?)    low bits first, no zero point: 2^(bits-1)
    MatMul(x, DequantizeLinear(q [K, N], scale [K/B, N], zero_point?))         blocks along K, or a scale per output

    w[n, k] = (q[n, k] - zero_point[n, k / B]) * scale[n, k / B]               float32, the product rounded once

The integers stay as they are for `quantize (method = keep)`: around zero as int4 or int8, else with their zero points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ....ir.linears import Linear
from ....ir.module import constant
from ....ir.packing import unpack_rows
from ....ir.stored_integers import STORED, StoredIntegers
from ....ir.weights import DryWeight, Weight, numbers, transpose
from .walk import base, decline

_N_BITS = (2, 4, 8)

Rows = Callable[[int, int], np.ndarray]


def n_bits_weight(node: ir.Node) -> Weight:
    """The weight [N, K] of a MatMulNBits."""
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        decline("a MatMulNBits with inputs in an order of their own (`g_idx`)", node)
    n, k, bits, block = (node.attributes.get_int(name, 0) for name in ("N", "K", "bits", "block_size"))
    packed, scale, zero = (constant(base(one)) if one is not None else None for one in (*node.inputs, None)[1:4])
    if packed is None or scale is None or (zero is None and len(node.inputs) > 3 and node.inputs[3] is not None):
        decline("a MatMulNBits whose weight is computed", node)
    if bits not in _N_BITS or min(n, k, block) <= 0 or block * bits % 8:
        decline(f"a MatMulNBits of {bits} bits and blocks of {block}", node)
    if zero is not None and zero.dtype != ir.DataType.UINT8:
        decline("a MatMulNBits whose zero points are floats", node)
    blocks = -(-k // block)
    fits = packed.size == n * blocks * (block * bits // 8) and scale.size == n * blocks
    if not fits or (zero is not None and zero.size != n * -(-blocks * bits // 8)):
        decline("a MatMulNBits whose tensors have other sizes than it states", node)
    integers = _by_rows(packed, n, lambda raw: unpack_rows(raw, bits, blocks * block, "little")[:, :k])
    scales = _by_rows(scale, n, lambda held: held)
    zeros = None if zero is None else _by_rows(zero, n, lambda raw: unpack_rows(raw, bits, blocks, "little"))
    return _Grid(packed, (n, k), bits, block, integers, scales, zeros).weight(f"MatMulNBits int{bits} block {block}")


def dequantised_weight(linear: Linear) -> Weight:
    """The weight [N, K] of a linear behind a DequantizeLinear."""
    quant, node = linear.quant, linear.node
    if quant is None or quant.node.op_type != "DequantizeLinear" or linear.kind not in ("matmul", "gemm"):
        decline("integers where a decoder has the weight of a linear", node)
    (n, k), bits, signed = linear.shape, quant.q.dtype.bitwidth, quant.q.dtype.is_signed()
    along_inputs = quant.axis % 2 == (1 if linear.rows_are_outputs else 0)
    if bits not in _N_BITS or (quant.block is not None and not along_inputs):
        decline(f"integers of {bits} bits that are no blocks along the inputs of a linear", quant.node)
    if quant.block is None and (len(quant.scale.dims) > 1 or quant.scale.size not in (1, n)):
        decline("integers whose scales are neither per output nor per block", quant.node)
    q, scale = _oriented(quant.q, linear, n), _oriented(quant.scale, linear, n)
    zero = None if quant.zero_point is None else _oriented(quant.zero_point, linear, n)
    if zero is None and not signed:
        zero = _shifted(scale, lambda held: np.zeros(held.shape, np.int16))
    if signed:  # as they would be without a sign
        q = _shifted(q, lambda held: held.astype(np.int16) + (1 << (bits - 1)))
        zero = None if zero is None else _shifted(zero, lambda held: held.astype(np.int16) + (1 << (bits - 1)))
    word = f"int{bits}" + (f" block {quant.block}" if quant.block else " per output")
    return _Grid(quant.q, (n, k), bits, quant.block or k, q, scale, zero).weight(word)


def _by_rows(weight: Weight, rows: int, made: Callable[[np.ndarray], np.ndarray]) -> Rows:
    """Rows of a tensor that is stored as [rows, ...] or along one axis."""
    each = weight.size // rows
    step = 1 if len(weight.dims) > 1 else each
    return lambda a, b: made(weight.rows(a * step, b * step).reshape(b - a, each))


def _oriented(part: Weight, linear: Linear, outputs: int) -> Rows:
    """Rows [N, ...] of integers, scales or zero points that are stored [N, ...] or [..., N]."""
    if len(part.dims) == 2:
        return (part if linear.rows_are_outputs else transpose(part)).rows
    whole = np.broadcast_to(np.asarray(numbers(part)).reshape(-1), (outputs,))
    return lambda a, b: whole[a:b].reshape(-1, 1)


def _shifted(rows: Rows, made: Callable[[np.ndarray], np.ndarray]) -> Rows:
    return lambda a, b: made(rows(a, b))


@dataclass(frozen=True)
class _Grid:
    """Integers without a sign [N, K], scales and zero points [N, K/B]; without zero points the middle is zero."""

    stored: Weight
    shape: tuple[int, int]
    bits: int
    block: int
    integers: Rows
    scales: Rows
    zeros: Rows | None

    def weight(self, word: str) -> Weight:
        """The float weight, its integers beside it; `word`: what people call the type."""
        kind = ir.DataType[f"{'INT' if self.zeros is None else 'UINT'}{4 if self.bits <= 4 else 8}"]
        groups, zeros = -(-self.shape[1] // self.block), self.zeros
        middle = 1 << (self.bits - 1) if zeros is None else 0
        q = self._part("q", kind, self.shape[1], lambda a, b: self.integers(a, b).astype(np.int16) - middle)
        scale = self._part("scale", ir.DataType.FLOAT, groups, self.scales)
        zero = None if zeros is None else self._part("zero_point", kind, groups, zeros)
        origin = f"{self.stored.origin} {word} > float32"
        made = Weight(self.stored.name, ir.DataType.FLOAT, self.shape, self._values, origin)
        if isinstance(self.stored, DryWeight):
            made = DryWeight(made.name, made.dtype, made.dims, origin)
        STORED.set(made, StoredIntegers(word, self.bits, self.block, q, scale, zero_point=zero))
        return made

    def _part(self, leaf: str, dtype: ir.DataType, count: int, rows: Rows) -> Weight:
        name, shape, target = f"{self.stored.name}.{leaf}", (self.shape[0], count), dtype.numpy()
        if isinstance(self.stored, DryWeight):
            return DryWeight(name, dtype, shape, self.stored.origin)
        return Weight(name, dtype, shape, lambda a, b: rows(a, b).astype(target), self.stored.origin)

    def _values(self, start: int, stop: int) -> np.ndarray:
        group_of = np.arange(self.shape[1]) // self.block
        zeros: np.ndarray | float = 1 << (self.bits - 1)
        if self.zeros is not None:
            zeros = self.zeros(start, stop).astype(np.float32)[:, group_of]
        scales = self.scales(start, stop).astype(np.float32)[:, group_of]
        return (self.integers(start, stop).astype(np.float32) - np.float32(zeros)) * scales
