"""Norms and activations of exporters, each read backwards from what it makes.

    rms norm    gain * (x * 1 / sqrt(mean(x^2) + eps))            also x / sqrt(…), or the op RMSNormalization
    silu, gelu  g * sigmoid(g); 0.5 g (1 + tanh(…)), or the ops

What is not the pattern raises `Declined` with a reason for people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ....ir.module import constant
from ....ir.weights import Weight
from .walk import base, decline, made_by, maker, scalar, split

_MOST_STEPS = 64  # of a walk through factors


@dataclass(frozen=True)
class Norm:
    """An RMS norm."""

    input: ir.Value
    gain: Weight
    epsilon: float


def norm(value: ir.Value | None) -> Norm:
    """An RMS norm."""
    node = maker(value, "Mul", "RMSNormalization", wanted="an RMS norm")
    if node.op_type != "Mul":
        gain, epsilon = constant(node.inputs[1]), node.attributes.get_float("epsilon", 1e-5)
        if gain is None:
            decline("a norm whose gain is computed", node)
        return Norm(base(node.inputs[0]), gain, epsilon)
    found = split(node, lambda one: constant(one) is not None)
    gain = constant(found[0]) if found is not None else None
    if found is None or gain is None or len(gain.dims) != 1:
        decline("a Mul without a constant gain where a decoder has an RMS norm", node)
    x, root = _quotient(maker(found[1], "Mul", "Div"))
    under = maker(maker(root, "Sqrt").inputs[0], "Add")
    pair = split(under, lambda one: scalar(one) is not None)
    if pair is None:
        decline("no epsilon under the root of a norm", under)
    square = maker(maker(pair[1], "ReduceMean").inputs[0], "Pow", "Mul")
    if base(square.inputs[0]) is not x:
        decline("a norm that divides by another value's mean", square)
    return Norm(x, gain, float(np.float32(scalar(pair[0]) or 0.0)))


def _quotient(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    """(x, r) of x / r, of x * (1 / r) and of x * Reciprocal(r)."""
    if node.op_type == "Div":
        return base(node.inputs[0]), base(node.inputs[1])
    for at in (1, 0):
        inverse = base(node.inputs[at]).producer()
        if inverse is not None and inverse.op_type == "Reciprocal":
            return base(node.inputs[1 - at]), base(inverse.inputs[0])
        if inverse is not None and inverse.op_type == "Div" and scalar(inverse.inputs[0]) == 1.0:
            return base(node.inputs[1 - at]), base(inverse.inputs[1])
    decline("a Mul where a norm divides by its root", node)


def activation(value: ir.Value | None) -> tuple[str, ir.Value]:
    """`silu` or `gelu_tanh`, and what it is applied to."""
    node = maker(value, "Mul", "Swish", "Gelu", wanted="an activation")
    if node.op_type == "Swish" and node.attributes.get_float("alpha", 1.0) == 1.0:
        return "silu", base(node.inputs[0])
    if node.op_type == "Gelu" and node.attributes.get_string("approximate", "none") == "tanh":
        return "gelu_tanh", base(node.inputs[0])
    found = split(node, lambda one: made_by(one, "Sigmoid")) if node.op_type == "Mul" else None
    if found is not None and base(maker(found[0], "Sigmoid").inputs[0]) is found[1]:
        return "silu", found[1]
    gate = _tanh_gate(node) if node.op_type == "Mul" else None
    if gate is None:
        decline("an activation that is neither SiLU nor GELU by tanh", node)
    return "gelu_tanh", gate


def _tanh_gate(node: ir.Node) -> ir.Value | None:
    """x of 0.5 x (1 + tanh(…)), in either order of its factors; the proof says whether the inside is GELU's."""
    waiting, values, found = [node], [], False
    for _ in range(_MOST_STEPS):  # factors that are shared multiply
        if not waiting:
            break
        for value in waiting.pop().inputs:
            inner = base(value).producer()
            if inner is not None and inner.op_type == "Mul":
                waiting.append(inner)
            elif inner is not None and inner.op_type == "Add" and any(made_by(base(v), "Tanh") for v in inner.inputs):
                found = True
            elif scalar(value) is None:
                values.append(base(value))
    return values[0] if found and len(values) == 1 and not waiting else None
