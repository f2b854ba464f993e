"""Ops that move values without computing: every shape is known, so reshapes carry theirs as a constant."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ....compiler.emit.refusals import refuse
from ....compiler.ir.module import constant
from ....compiler.ir.weights import Weight
from .builder import ON_CPU, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    from .lowering import Lowering


def _reshape(low: Lowering, node: ir.Node) -> ir.Value:
    """Reshape, Flatten, Squeeze, Unsqueeze: all are one Reshape to a static shape."""
    shape = static_shape(node.outputs[0])
    low.use("op.Reshape", node, rank=len(shape))
    return low.build.reshape(low.value(node.inputs[0]), shape)


def _transpose(low: Lowering, node: ir.Node) -> ir.Value:
    shape = static_shape(node.outputs[0])
    perm = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else list(range(len(shape)))[::-1]
    low.use("op.Transpose", node, perm="".join(str(axis) for axis in perm), elements=math.prod(shape))
    return low.build.op("Transpose", low.value(node.inputs[0]), shape=shape, perm=perm)


def _concat(low: Lowering, node: ir.Node) -> ir.Value:
    shape = static_shape(node.outputs[0])
    axis = node.attributes["axis"].as_int()
    low.use("op.Concat", node, rank=len(shape), axis=axis % len(shape), elements=math.prod(shape))
    inputs = [low.value(value) for value in node.inputs]
    return low.build.op("Concat", *inputs, shape=shape, axis=axis)


def _slice(low: Lowering, node: ir.Node) -> ir.Value:
    shape = static_shape(node.outputs[0])
    bounds = [constant(value) for value in node.inputs[1:]]
    if any(bound is None for bound in bounds):
        refuse("E0634", "{}: Slice needs constant bounds on HTP", node.name or "", help=ON_CPU)
    source = static_shape(_required(node.inputs[0]))
    low.use("op.Slice", node, rank=len(shape), elements=math.prod(shape), **_cut(bounds, len(source)))
    ints = [low.build.ints(*(int(i) for i in bound.numpy())) for bound in bounds if bound is not None]
    return low.build.op("Slice", low.value(node.inputs[0]), *ints, shape=shape)


def _cut(bounds: list[Weight | None], rank: int) -> dict[str, Any]:
    """Which axes a Slice cuts, counted from the front, and its steps where they are not 1."""
    starts, _, axes, steps = [None if b is None else [int(i) for i in b.numpy()] for b in (*bounds, None, None)[:4]]
    cut = range(len(starts or ())) if axes is None else [axis % rank for axis in axes]
    found = {"axis": "x".join(map(str, cut))}
    return found if steps is None or set(steps) == {1} else {**found, "step": "x".join(map(str, steps))}


def _required(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise ValueError("a required input is absent")
    return value


def _split(low: Lowering, node: ir.Node) -> list[ir.Value]:
    """One Slice per output: the sizes are in the outputs' shapes."""
    whole = _required(node.inputs[0])
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    axis %= len(static_shape(whole))
    made, start, build = [], 0, low.build
    for index, output in enumerate(node.outputs):
        shape = static_shape(output)
        stop = start + shape[axis]
        low.use("op.Slice", node, rank=len(shape), elements=math.prod(shape), axis=str(axis))
        bounds = (build.ints(start), build.ints(stop), build.ints(axis))
        made.append(build.op("Slice", low.value(whole), *bounds, shape=shape, step=f"part{index}"))
        start = stop
    return made


RULES = {
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
}
