"""Norms in primitive ops, found from the mean of squares that each has.

RMSNormalization     gain * (x * 1 / sqrt(mean(x^2) + eps))                  mean over the last axis
LayerNormalization   (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * gain + bias
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...compiler.ir.module import constant
from ...compiler.ir.weights import numbers
from ...compiler.sources.onnx.decoder.patterns import Norm, norm
from ...compiler.sources.onnx.decoder.walk import base, decline, scalar, split

_BEHIND = ("Add", "Sqrt", "Div", "Reciprocal", "Mul", "Cast", "Sub")
_MOST_STEPS = 8


def raised(mean: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """(value, op that makes it) for the norm that the ReduceMean `mean` belongs to; None if it is no mean of squares.

    `Declined` with the reason where it is one and the norm is another.
    """
    squared = base(mean.inputs[0]).producer()
    if squared is None or not _squares(squared):
        return None
    if not _over_last_axis(mean):
        decline("the mean is not over the last axis", mean)
    scaled = _scaled(mean)
    found = norm(scaled)
    centred = base(found.input).producer()
    if centred is not None and centred.op_type == "Sub" and _mean_of(centred):
        return _layer_norm(scaled, found, centred)
    _demand_types(found, found.input, scaled)
    attributes = {"axis": -1, "epsilon": found.epsilon}
    return scaled, ir.node("RMSNormalization", [found.input, _gain(scaled)], attributes)


def _squares(node: ir.Node) -> bool:
    if node.op_type == "Pow":
        return scalar(node.inputs[1]) == 2.0
    return node.op_type == "Mul" and base(node.inputs[0]) is base(node.inputs[1])


def _over_last_axis(node: ir.Node) -> bool:
    held = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    x = node.inputs[0]
    if held is None or x is None or x.shape is None or not node.attributes.get_int("keepdims", 1):
        return False
    return np.asarray(numbers(held)).reshape(-1).tolist() in ([-1], [len(x.shape) - 1])


def _scaled(mean: ir.Node) -> ir.Value:
    """The product with the gain, some ops behind the mean."""
    at = mean.outputs[0]
    for _ in range(_MOST_STEPS):
        uses = tuple(at.uses())
        if len(uses) != 1 or (node := uses[0].node).op_type not in _BEHIND:
            break
        at = node.outputs[0]
        gains = [held for value in node.inputs if (held := constant(value)) is not None and len(held.dims) == 1]
        if node.op_type == "Mul" and gains and gains[0].size > 1:
            return at
    decline("no product with a constant gain behind the mean", mean)


def _gain(scaled: ir.Value) -> ir.Value | None:
    """The constant factor of a product."""
    node = scaled.producer()
    return next((value for value in node.inputs if constant(value) is not None), None) if node is not None else None


def _demand_types(found: Norm, x: ir.Value, made: ir.Value) -> None:
    width = x.shape[-1] if x.shape is not None and len(x.shape) else None
    if found.gain.dims != (width,):
        decline(f"a gain of {list(found.gain.dims)} over rows of {width}", made.producer())
    if not (x.dtype == made.dtype == found.gain.dtype):
        decline("operand, gain and result have different types", made.producer())


def _mean_of(sub: ir.Node) -> bool:
    mean = base(sub.inputs[1]).producer()
    same = mean is not None and mean.op_type == "ReduceMean" and base(mean.inputs[0]) is base(sub.inputs[0])
    return bool(same and mean is not None and _over_last_axis(mean))


def _layer_norm(scaled: ir.Value, found: Norm, centred: ir.Node) -> tuple[ir.Value, ir.Node]:
    x, attributes = base(centred.inputs[0]), {"axis": -1, "epsilon": found.epsilon}
    _demand_types(found, x, scaled)
    gain = _gain(scaled)
    uses = tuple(scaled.uses())
    add = uses[0].node if len(uses) == 1 and not scaled.is_graph_output() else None
    pair = split(add, lambda one: constant(one) is not None) if add is not None and add.op_type == "Add" else None
    bias = constant(pair[0]) if pair is not None else None
    if add is None or pair is None or bias is None or bias.dims != found.gain.dims:
        return scaled, ir.node("LayerNormalization", [x, gain], attributes)
    return add.outputs[0], ir.node("LayerNormalization", [x, gain, pair[0]], attributes)
