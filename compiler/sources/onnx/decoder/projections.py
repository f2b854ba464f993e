"""Linears of an exported decoder: y = x W^T (+ b), alone or as some of the rows of one that holds several.

linear     MatMul or Gemm with a constant [K,N], or the Transpose of a [N,K]; Add of a bias; MatMulNBits
joined     Slice or Split of what a linear makes along its last axis: q, k and v as one, gate and up as one
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ....ir.linears import as_linear
from ....ir.module import constant
from ....ir.weights import Weight, numbers, slice_rows
from ...fused import RowsOf, rows_of
from .stored_linear import dequantised_weight, n_bits_weight
from .walk import Declined, base, decline, made_by, maker, split

_LINEARS = ("MatMul", "Gemm", "MatMulNBits")
_PARTS = ("Slice", "Split")


@dataclass(frozen=True)
class Projection:
    """A linear with its bias: `weight` [N,K] and `bias` [N]; `node` makes the product."""

    input: ir.Value
    node: ir.Node
    weight: Weight
    bias: Weight | None

    @property
    def outputs(self) -> int:
        """N."""
        return self.weight.dims[0]

    def rows(self, start: int, stop: int) -> Projection:
        """The linear that makes the outputs [start, stop)."""
        if (start, stop) == (0, self.outputs):
            return self
        if not 0 <= start < stop <= self.outputs:
            decline(f"outputs {start} to {stop} of a linear with {self.outputs}", self.node)
        name = f"{self.weight.name}[{start}:{stop}]"
        weight = rows_of(name, self.weight, RowsOf(self.weight.name, start, stop))
        bias = None if self.bias is None else slice_rows(f"{self.bias.name}[{start}:{stop}]", self.bias, start, stop)
        return replace(self, weight=weight, bias=bias)

    def with_bias(self, bias: Weight) -> Projection:
        """The same behind the Add of a bias."""
        if self.bias is not None or bias.dims != (self.outputs,):
            decline(f"a bias of {list(bias.dims)} behind a linear of {self.outputs} outputs", self.node)
        return replace(self, bias=bias)


def projection(value: ir.Value | None) -> Projection:
    """The linear that makes `value`."""
    made = base(value)
    node = maker(made, *_LINEARS, "Add", *_PARTS, wanted="a linear")
    if node.op_type in _PARTS:
        return _part(node, made)
    if node.op_type == "Add":
        found = split(node, lambda one: constant(one) is not None)
        bias = constant(found[0]) if found is not None else None
        if found is None or bias is None:
            decline("an Add of two activations where a decoder has a linear", node)
        return projection(found[1]).with_bias(bias)
    return _n_bits(node) if node.op_type == "MatMulNBits" else _product(node)


def _product(node: ir.Node) -> Projection:
    linear = as_linear(node)
    if linear is None or linear.kind not in ("matmul", "gemm"):
        decline("a product without a constant float weight where a decoder has a linear", node)
    weight = linear.weight() if linear.quant is None else dequantised_weight(linear)
    return Projection(base(node.inputs[0]), node, weight, constant(linear.bias))


def _n_bits(node: ir.Node) -> Projection:
    made = Projection(base(node.inputs[0]), node, n_bits_weight(node), None)
    bias = constant(node.inputs[5]) if len(node.inputs) > 5 else None
    return made if bias is None else made.with_bias(bias)


def _part(node: ir.Node, value: ir.Value) -> Projection:
    whole = projection(node.inputs[0])
    start, stop = _cut(node, value, whole.outputs)
    return whole.rows(start, stop)


def _cut(node: ir.Node, value: ir.Value, outputs: int) -> tuple[int, int]:
    """Which outputs of a linear a Slice or Split along the last axis leaves."""
    rank = len(value.shape) if value.shape is not None else 3
    if node.op_type == "Split":
        if node.attributes.get_int("axis", 0) not in (-1, rank - 1):
            decline("a Split along another axis than a linear's outputs", node)
        at, sizes = list(node.outputs).index(value), _integers(node.inputs[1]) if len(node.inputs) > 1 else None
        if sizes is None:
            each = -(-outputs // len(node.outputs))
            sizes = [min(each, outputs - each * one) for one in range(len(node.outputs))]
        return sum(sizes[:at]), sum(sizes[: at + 1])
    given = [_integers(one) for one in (*node.inputs[1:], None, None)[:4]]
    starts, stops, axes, steps = given
    if starts is None or stops is None or len(starts) != 1 or steps not in (None, [1]):
        decline("a Slice whose bounds are computed", node)
    if axes not in ([-1], [rank - 1]):
        decline("a Slice along another axis than a linear's outputs", node)
    start, stop, _ = slice(starts[0], stops[0]).indices(outputs)
    return start, stop


def _integers(value: ir.Value | None) -> list[int] | None:
    held = constant(value)
    return None if held is None else [int(one) for one in np.asarray(numbers(held)).reshape(-1)]


def is_projection(value: ir.Value | None) -> bool:
    """Whether `value` is what a linear makes."""
    try:
        projection(value)
    except Declined:
        return False
    return True


def is_linear(value: ir.Value) -> bool:
    """Whether an op that linears are made of makes `value`, be it one that edgec reads or not."""
    return any(made_by(value, op_type) for op_type in _LINEARS)
