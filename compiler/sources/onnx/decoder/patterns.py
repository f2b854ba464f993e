"""Patterns that exporters write for one op of a decoder, each read backwards from what it makes.

    rms norm    gain * (x * 1 / sqrt(mean(x^2) + eps))            also x / sqrt(…), or the op RMSNormalization
    linear      x W (+ bias)                                      W constant [K,N], or the Transpose of a [N,K]
    silu, gelu  g * sigmoid(g); 0.5 g (1 + tanh(…)), or the ops
    rotary      x * cos + concat(-x[D/2:], x[:D/2]) * sin         cos and sin of position * f, f constant [D/2]

What is not the pattern raises `Declined` with a reason for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import onnx_ir as ir

from ....ir.linears import Linear, as_linear
from ....ir.module import constant
from ....ir.weights import Weight, numbers

_MOVES = ("Cast", "Identity")
_ANGLE = ("Mul", "MatMul", "Transpose", "Unsqueeze", "Expand", "Cast", "Reshape", "Concat", "Squeeze")
_MOST_STEPS = 64  # of a walk through what shapes and moves a value


class Declined(Exception):
    """The graph is no decoder of a kind that edgec builds; the text says what is otherwise."""


def decline(reason: str, node: ir.Node | None = None) -> NoReturn:
    """Raise `Declined`, naming `node`."""
    raise Declined(f"{reason} (`{node.name}`)" if node is not None else reason)


@dataclass(frozen=True)
class Projection:
    """A linear with its bias."""

    input: ir.Value
    linear: Linear
    bias: Weight | None


@dataclass(frozen=True)
class Norm:
    """An RMS norm."""

    input: ir.Value
    gain: Weight
    epsilon: float


@dataclass(frozen=True)
class Rotation:
    """A rotary embedding: radians per position of each pair, and what cos and sin are multiplied by."""

    input: ir.Value
    frequencies: np.ndarray
    factor: float


def base(value: ir.Value | None) -> ir.Value:
    """`value` behind casts between float types, copies and a Concat of one."""
    while value is not None and (node := value.producer()) is not None and _copies(node):
        value = node.inputs[0]
    if value is None:
        decline("an op lacks an input")
    return value


def _copies(node: ir.Node) -> bool:
    return node.op_type in _MOVES or (node.op_type == "Concat" and len(node.inputs) == 1)


def maker(value: ir.Value | None, *op_types: str) -> ir.Node:
    """The node that makes `value`, casts aside; declined where it is none of `op_types`."""
    node = base(value).producer()
    if node is None or (op_types and node.op_type not in op_types):
        wanted = " or ".join(op_types)
        decline(f"a {node.op_type} where a decoder has {wanted}" if node else f"an input where it has {wanted}", node)
    return node


def scalar(value: ir.Value | None) -> float | None:
    """The number of a constant of one element."""
    held = constant(value)
    return float(numbers(held).reshape(-1)[0]) if held is not None and held.size == 1 else None


def split(node: ir.Node, which: Callable[[ir.Value], bool]) -> tuple[ir.Value, ir.Value] | None:
    """(the first input that `which` holds of, the other) of a node with two inputs."""
    a, b = base(node.inputs[0]), base(node.inputs[1])
    if which(a):
        return a, b
    return (b, a) if which(b) else None


def through(value: ir.Value | None, op_types: Iterable[str]) -> tuple[ir.Value, float]:
    """`value` behind ops that shape it, and the product of the constant scalars it is multiplied by on the way."""
    allowed, factor, at = frozenset(op_types), 1.0, base(value)
    for _ in range(_MOST_STEPS):
        node = at.producer()
        if node is None:
            break
        if node.op_type in ("Mul", "Div") and (number := scalar(node.inputs[1])) is not None:
            factor *= number if node.op_type == "Mul" else 1 / number
            at = base(node.inputs[0])
        elif node.op_type == "Mul" and (number := scalar(node.inputs[0])) is not None:
            factor, at = factor * number, base(node.inputs[1])
        elif node.op_type in allowed:
            at = base(node.inputs[0])
        else:
            break
    return at, factor


def projection(value: ir.Value | None) -> Projection:
    """A linear, behind the Add of its bias."""
    node, bias = maker(value, "MatMul", "Gemm", "Add"), None
    if node.op_type == "Add":
        found = split(node, lambda one: constant(one) is not None)
        if found is None:
            decline("an Add of two activations where a decoder has a linear", node)
        bias, node = constant(found[0]), maker(found[1], "MatMul")
    linear = as_linear(node)
    if linear is None or linear.stored is None or linear.kind not in ("matmul", "gemm"):
        decline("a product without a constant float weight where a decoder has a linear", node)
    if linear.bias is not None:
        bias = constant(linear.bias)
    return Projection(base(node.inputs[0]), linear, bias)


def is_projection(value: ir.Value | None) -> bool:
    """Whether `value` is what a linear makes."""
    try:
        projection(value)
    except Declined:
        return False
    return True


def norm(value: ir.Value | None) -> Norm:
    """An RMS norm."""
    node = maker(value, "Mul", "RMSNormalization", "SimplifiedLayerNormalization")
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
    node = maker(value, "Mul", "Swish", "Gelu")
    if node.op_type == "Swish" and node.attributes.get_float("alpha", 1.0) == 1.0:
        return "silu", base(node.inputs[0])
    if node.op_type == "Gelu" and node.attributes.get_string("approximate", "none") == "tanh":
        return "gelu_tanh", base(node.inputs[0])
    found = split(node, lambda one: _is(one, "Sigmoid")) if node.op_type == "Mul" else None
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
            elif inner is not None and inner.op_type == "Add" and any(_is(base(v), "Tanh") for v in inner.inputs):
                found = True
            elif scalar(value) is None:
                values.append(base(value))
    return values[0] if found and len(values) == 1 and not waiting else None


def _is(value: ir.Value | None, op_type: str) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == op_type


def rotation(value: ir.Value | None) -> Rotation | None:
    """A rotary embedding by halves; None where `value` is not turned at all."""
    node = base(value).producer()
    if node is None or node.op_type != "Add":
        return None
    sides = [maker(one, "Mul") for one in node.inputs]
    turned = [split(side, lambda one: _is(one, "Concat") and _half_turned(one) is not None) for side in sides]
    at = 0 if turned[0] is not None else 1
    found = turned[at]
    if found is None:
        decline("an Add where a decoder turns the heads of q or k", node)
    x = _half_turned(found[0])
    straight = split(sides[1 - at], lambda one: one is x)
    if x is None or straight is None:
        decline("a rotary embedding whose halves are of two values", node)
    (cos, factor), (sin, same) = _angle(straight[1], "Cos"), _angle(found[1], "Sin")
    if factor != same or not np.array_equal(cos, sin):
        decline("cos and sin of other frequencies", node)
    return Rotation(x, cos, factor)


def _half_turned(value: ir.Value) -> ir.Value | None:
    """x of concat(-x[D/2:], x[:D/2])."""
    node = value.producer()
    if node is None or len(node.inputs) != 2:
        return None
    first, second = (base(one).producer() for one in node.inputs)
    if first is None or second is None or first.op_type != "Neg" or second.op_type not in ("Slice", "Split"):
        return None
    inner = base(first.inputs[0]).producer()
    same = inner is not None and base(inner.inputs[0]) is base(second.inputs[0])
    return base(second.inputs[0]) if same else None


def _angle(value: ir.Value, op_type: str) -> tuple[np.ndarray, float]:
    """The frequencies [D/2] that cos or sin is of, and the factor behind it."""
    at, factor = through(value, ("Unsqueeze", "Reshape", "Transpose", "Expand", "Concat", "Squeeze"))
    waiting = [maker(at, op_type)]
    for _ in range(_MOST_STEPS):
        if not waiting:
            break
        for one in waiting.pop().inputs:
            held = constant(one)
            if held is not None and held.size > 1 and held.dtype.is_floating_point():
                return np.asarray(numbers(held), np.float64).reshape(-1), factor
            inner = base(one).producer() if one is not None else None
            if inner is not None and inner.op_type in _ANGLE:
                waiting.append(inner)
    decline(f"a {op_type} whose frequencies are computed", at.producer())
