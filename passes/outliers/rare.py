"""Outliers outside of the hot channels: in each call the channels of the largest of them are corrected too.

    over = x - clip(x), zero in the hot channels          [.., K]
    at   = the R channels of the largest |over|           [R], another set in each call
    y   += over[.., at] W[:, at]^T

The rows W[:, at]^T are read from the integers that the NPU multiplies by, stored once more as [K, N] in a file that is
mapped: only what is read of it is resident. Shapes are static. What more than R channels have beyond is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...compiler.ir.activation_encodings import Encoding
from ...compiler.ir.annotations import Transform
from ...compiler.ir.linears import Linear
from ...compiler.ir.module import initializer
from ...compiler.ir.weights import Weight, derive, from_array
from .new_nodes import cpu_node

_FLOAT, _INT64 = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)


class RareChannels:
    """The channels of one input that a call corrects, and what they add to each linear that reads it."""

    def __init__(
        self, graph: ir.Graph, x: ir.Value, ends: Encoding, hot: Sequence[int], most: int, base: str, before: ir.Node
    ) -> None:
        self._graph, self._before, self._most = graph, before, most
        dims = list(x.shape or ())
        self._rank = len(dims)
        keep = np.ones(int(dims[-1]), np.float32)  # type: ignore[arg-type]
        keep[list(hot)] = 0
        both = (("low", ends.low), ("high", ends.high))
        low, high = (self._constant(f"{base}.rare.{key}", np.array(end, np.float32)) for key, end in both)
        inside = self._node("Clip", [x, low, high], f"{base}.rare.inside", x)
        over = self._node("Sub", [x, inside], f"{base}.rare.over", x)
        over = self._node("Mul", [over, self._constant(f"{base}.rare.cold", keep)], f"{base}.rare.cold_over", x)
        size = self._node("Abs", [over], f"{base}.rare.size", x)
        axes = self._constant(f"{base}.rare.axes", np.arange(self._rank - 1))
        wide = ir.Value(type=_FLOAT, shape=ir.Shape([dims[-1]]))
        largest = self._node("ReduceMax", [size, axes], f"{base}.rare.largest", wide, keepdims=0)
        count = self._constant(f"{base}.rare.count", np.array([most], np.int64))
        self._at = self._places(largest, count, f"{base}.rare.channels")
        few = ir.Value(type=x.type, shape=ir.Shape([*dims[:-1], most]))
        self._beyond = self._node("Gather", [over, self._at], f"{base}.rare", few, axis=self._rank - 1)

    def product(self, linear: Linear, name: str) -> ir.Value:
        """What the channels add to the output of `linear`."""
        return self._node("MatMul", [self._beyond, self._rows(linear, name)], name, linear.node.outputs[0])

    def _rows(self, linear: Linear, name: str) -> ir.Value:
        """The rows [R, N] of the call's channels, as floats."""
        n, quant = linear.shape[0], linear.quant
        if quant is None or quant.block is not None or quant.minimum is not None:
            raise ValueError(f"`{linear.name}` has no integers with a scale per output")
        held = initializer(self._graph, f"{name}.weight", by_inputs(f"{name}.weight", quant.q))
        like = ir.Value(type=ir.TensorType(held.const_value.dtype), shape=ir.Shape([self._most, n]))  # type: ignore[union-attr]
        integers = self._node("Gather", [held, self._at], f"{name}.integers", like, axis=0)
        floats = ir.Value(type=_FLOAT, shape=ir.Shape([self._most, n]))
        rows = self._node("Cast", [integers], f"{name}.cast", floats, to=int(ir.DataType.FLOAT))
        if quant.zero_point is not None:
            zero = initializer(self._graph, f"{name}.zero_point", _vector(quant.zero_point, f"{name}.zero_point"))
            rows = self._node("Sub", [rows, zero], f"{name}.from_zero", floats)
        scale = initializer(self._graph, f"{name}.scale", _vector(quant.scale, f"{name}.scale"))
        return self._node("Mul", [rows, scale], f"{name}.rows", floats)

    def _places(self, largest: ir.Value, count: ir.Value, name: str) -> ir.Value:
        values = ir.Value(name=f"{name}.values", type=_FLOAT, shape=ir.Shape([self._most]))
        at = ir.Value(name=f"{name}.out", type=_INT64, shape=ir.Shape([self._most]))
        made = cpu_node(self._graph, "TopK", [largest, count], name, values, self._before, axis=-1)
        made.outputs[0].name = values.name
        made.resize_outputs(2)
        made.outputs[1].name, made.outputs[1].type, made.outputs[1].shape = at.name, at.type, at.shape
        return made.outputs[1]

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        return initializer(self._graph, name, from_array(name, array))

    def _node(self, op: str, inputs: Sequence[ir.Value], name: str, like: ir.Value, **attributes: int) -> ir.Value:
        return cpu_node(self._graph, op, inputs, name, like, self._before, **attributes).outputs[0]


def by_inputs(name: str, integers: Weight) -> Weight:
    """Integers [N, K] as [K, N] bytes; one block of rows reads all of `integers`."""
    n, k = integers.dims
    dtype = ir.DataType.INT8 if integers.dtype.is_signed() else ir.DataType.UINT8

    def rows(start: int, stop: int) -> np.ndarray:
        made = np.empty((stop - start, n), dtype.numpy())
        for first, block in integers.blocks():
            made[:, first : first + len(block)] = block[:, start:stop].T
        return made

    return derive(name, dtype, (k, n), rows, integers, Transform.MEASURE, "by inputs")


def _vector(weight: Weight, name: str) -> Weight:
    """Scales or zero points [N] or [N, 1] as floats [N]."""
    n = weight.dims[0]

    def rows(start: int, stop: int) -> np.ndarray:
        return weight.rows(start, stop).astype(np.float32).reshape(-1)

    return derive(name, ir.DataType.FLOAT, (n,), rows, weight, Transform.MEASURE, "by outputs")
