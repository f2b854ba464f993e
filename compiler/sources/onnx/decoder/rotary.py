"""Rotary embeddings of exporters: what turns the heads of q and k, and by which frequencies.

    by halves    x * cos + concat(-x[D/2:], x[:D/2]) * sin         cos and sin of position * f, f constant [D/2]
    one op       RotaryEmbedding(x, positions, cos, sin)           cos and sin constant rows [P, D/2], or computed
    whole heads  concat(turned x[:D], x[D:]), where nothing is left behind D channels

Rows of cos and sin say what f is: the angle of row p, p doubling, unwrapped by what the rows before it told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ....ir.module import constant
from ....ir.weights import Weight, numbers
from .walk import base, decline, made_by, maker, split, through

_ANGLE = ("Mul", "MatMul", "Transpose", "Unsqueeze", "Expand", "Cast", "Reshape", "Concat", "Squeeze")
_SHAPED = ("Unsqueeze", "Reshape", "Transpose", "Expand", "Concat", "Squeeze")
_MOST_STEPS = 64  # of a walk through what makes angles
_ROUNDED = {2: 2e-3, 4: 1e-6}  # bytes of a float -> what an angle read from cos and sin of it may be off by


@dataclass(frozen=True)
class Rotation:
    """A rotary embedding: radians per position of each pair, and what cos and sin are multiplied by.

    `unsure`: how far off the frequencies may be, where they were read from rows of cos and sin.
    """

    input: ir.Value
    frequencies: np.ndarray
    factor: float
    unsure: float = 0.0

    def same(self, other: Rotation | None) -> bool:
        """Whether another turns alike."""
        return other is not None and self.factor == other.factor and np.array_equal(self.frequencies, other.frequencies)


def rotation(value: ir.Value | None) -> Rotation | None:
    """The rotary embedding that makes `value`; None where `value` is not turned at all."""
    node = base(value).producer()
    if node is not None and node.op_type == "RotaryEmbedding":
        return _one_op(node)
    if node is not None and node.op_type == "Concat":
        return _whole_heads(node)
    if node is None or node.op_type != "Add":
        return None
    sides = [maker(one, "Mul") for one in node.inputs]
    turned = [split(side, lambda one: made_by(one, "Concat") and half_turned(one) is not None) for side in sides]
    at = 0 if turned[0] is not None else 1
    found = turned[at]
    if found is None:
        decline("an Add where a decoder turns the heads of q or k", node)
    x = half_turned(found[0])
    straight = split(sides[1 - at], lambda one: one is x)
    if x is None or straight is None:
        decline("a rotary embedding whose halves are of two values", node)
    return _of_angles(x, straight[1], found[1], node)


def _whole_heads(node: ir.Node) -> Rotation:
    """What is written for heads that are turned in part, of heads that are turned as a whole."""
    left = maker(node.inputs[1], "Slice")
    found, whole = rotation(node.inputs[0]), base(left.inputs[0])
    size = whole.shape[-1] if whole.shape is not None and len(whole.shape) else None
    if found is None or made_by(base(found.input), "Slice") is False:
        decline("a Concat that is no rotary embedding of some channels", node)
    part = 2 * len(found.frequencies)
    if size != part or base(maker(found.input, "Slice").inputs[0]) is not whole:
        decline(f"a rotary embedding of {part} of {size if isinstance(size, int) else 'all'} channels", node)
    return replace(found, input=whole)


def _of_angles(x: ir.Value, cos: ir.Value, sin: ir.Value, node: ir.Node) -> Rotation:
    (frequencies, factor), (others, same) = _angle(cos, "Cos"), _angle(sin, "Sin")
    if factor != same or not np.array_equal(frequencies, others):
        decline("cos and sin of other frequencies", node)
    return Rotation(x, frequencies, factor)


def _one_op(node: ir.Node) -> Rotation:
    """RotaryEmbedding of ONNX (x, cos, sin, positions) or of ONNX Runtime (x, positions, cos, sin)."""
    if node.attributes.get_int("interleaved", 0) or node.attributes.get_float("scale", 1.0) != 1.0:
        decline("a rotary embedding that turns neighbours, or scales", node)
    first = 2 if node.domain else 1
    cos, sin = base(node.inputs[first]), base(node.inputs[first + 1])
    x, held = base(node.inputs[0]), (constant(cos), constant(sin))
    if held[0] is None or held[1] is None:
        return _of_angles(x, cos, sin, node)
    found = from_rows(x, held[0], held[1], node)
    part = node.attributes.get_int("rotary_embedding_dim", 0)
    if part not in (0, 2 * len(found.frequencies)):
        decline(f"a rotary embedding of {part} channels", node)
    return found


def from_rows(x: ir.Value, cos: Weight, sin: Weight, node: ir.Node) -> Rotation:
    """The rotation of `x` by constant rows [P, D/2] of cos and sin; `node` is named where they are none."""
    if len(cos.dims) != 2 or cos.dims != sin.dims or cos.dims[0] < 2:
        decline(f"rows of cos {list(cos.dims)} and sin {list(sin.dims)} that are no positions and pairs", node)
    start = np.asarray(cos.rows(0, 1), np.float64)[0]
    factor = float(start[0])
    if not factor > 0 or not np.allclose(start, factor, rtol=1e-3):
        decline("cos of position 0 that is not the same for all pairs", node)
    frequencies, at = np.zeros(cos.dims[1]), 1
    while True:
        c, s = (np.asarray(one.rows(at, at + 1), np.float64)[0] for one in (cos, sin))
        angle, expected = np.arctan2(s, c), frequencies * at
        frequencies = (angle + 2 * np.pi * np.round((expected - angle) / (2 * np.pi))) / at
        if 2 * at >= cos.dims[0]:
            break
        at *= 2
    return Rotation(x, frequencies, float(np.float32(factor)), _ROUNDED.get(int(cos.dtype.itemsize), 1e-6) / at)


def half_turned(value: ir.Value) -> ir.Value | None:
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
    at, factor = through(value, _SHAPED)
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
