"""Elementwise ops, softmax and reductions: the same op in fp16, its shape class noted.

Swish(x) = x * sigmoid(x)        (HTP knows the two ops, not their name)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ....compiler.emit.refusals import refuse
from ....compiler.ir.activation_encodings import Encoding, encoding_of
from ....compiler.ir.module import constant
from .builder import ON_CPU, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    from .lowering import Lowering

UNARY = ("Sigmoid", "Tanh", "Relu", "Gelu", "Exp", "Sqrt", "Neg", "Abs", "HardSwish", "LeakyRelu", "Elu")
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min")


def _same(low: Lowering, node: ir.Node) -> ir.Value:
    """The op as it stands."""
    shape = static_shape(node.outputs[0])
    low.use(f"op.{node.op_type}", node, rank=len(shape), elements=math.prod(shape))
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    inputs = [low.value(value) for value in node.inputs]
    return low.build.op(node.op_type, *inputs, shape=shape, **attributes)


def _swish(low: Lowering, node: ir.Node) -> ir.Value:
    alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
    if alpha != 1.0:
        refuse("E0634", f"{{}}: Swish with alpha = {alpha:g} has no lowering for HTP", node.name or "", help=ON_CPU)
    shape = static_shape(node.outputs[0])
    low.use("swish", node, rank=len(shape), elements=math.prod(shape))
    x = low.value(node.inputs[0])
    gate = low.build.op("Sigmoid", x, shape=shape)
    if low.integers is not None:
        low.integers.encode(low.build, gate, Encoding.over(0.0, 1.0, "uint16"))
    return low.build.op("Mul", x, gate, shape=shape, step="gate")


def _softmax(low: Lowering, node: ir.Node) -> ir.Value:
    shape = static_shape(node.outputs[0])
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    if axis not in (-1, len(shape) - 1):
        refuse(
            "E0634",
            f"{{}}: Softmax over axis {axis} has no lowering for HTP, the last axis has",
            node.name or "",
            help=ON_CPU,
        )
    low.use("softmax", node, rank=len(shape), rows=math.prod(shape[:-1]), size=shape[-1])
    return low.build.op("Softmax", low.value(node.inputs[0]), shape=shape, axis=-1)


def _reduce_mean(low: Lowering, node: ir.Node) -> ir.Value:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    shape, inner = static_shape(node.outputs[0]), static_shape(_required(node.inputs[0]))
    if axes is None or [int(a) % len(inner) for a in axes.numpy()] != [len(inner) - 1]:
        refuse(
            "E0634",
            "{}: ReduceMean over more than the last axis has no lowering for HTP",
            node.name or "",
            help=ON_CPU,
        )
    low.use("op.ReduceMean", node, rank=len(inner), elements=math.prod(inner))
    keep = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    build = low.build
    return build.op("ReduceMean", low.value(node.inputs[0]), build.ints(-1), shape=shape, keepdims=keep)


def _clip(low: Lowering, node: ir.Node) -> ir.Value:
    shape = static_shape(node.outputs[0])
    bounds = [constant(value) for value in node.inputs[1:]]
    if any(bound is None for bound in bounds):
        refuse("E0634", "{}: Clip needs constant bounds on HTP", node.name or "", help=ON_CPU)
    if low.integers is not None and _rounded_to(node, [float(bound.numpy()) for bound in bounds if bound is not None]):
        return low.value(node.inputs[0])  # what the integers behind it cannot hold, rounding cuts off
    low.use("op.Clip", node, rank=len(shape), elements=math.prod(shape))
    inputs = [low.build.scalar(float(bound.numpy())) for bound in bounds if bound is not None]
    return low.build.op("Clip", low.value(node.inputs[0]), *inputs, shape=shape)


def _rounded_to(node: ir.Node, bounds: Sequence[float]) -> bool:
    """Whether all that reads a Clip rounds it to integers whose ends are its own."""
    found = [encoding_of(use.node) for use in node.outputs[0].uses()]
    return bool(found) and all(
        one is not None and np.allclose((one.low, one.high), bounds, rtol=1e-5, atol=0) for one in found
    )


def _identity(low: Lowering, node: ir.Node) -> ir.Value:
    return low.value(node.inputs[0])


def _cast(low: Lowering, node: ir.Node) -> ir.Value:
    """Between float types a cast is nothing: every float is fp16 here."""
    source, target = _required(node.inputs[0]).dtype, node.outputs[0].dtype
    if source is None or target is None or not (source.is_floating_point() and target.is_floating_point()):
        refuse(
            "E0634",
            f"{{}}: Cast between {_name(source)} and {_name(target)} has no lowering for HTP",
            node.name or "",
            help=ON_CPU,
        )
    return low.value(node.inputs[0])


def _name(dtype: ir.DataType | None) -> str:
    return "an unknown type" if dtype is None else dtype.name.lower()


def _required(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise ValueError("a required input is absent")
    return value


RULES = {
    **dict.fromkeys(UNARY + BINARY, _same),
    "Swish": _swish,
    "Softmax": _softmax,
    "ReduceMean": _reduce_mean,
    "Clip": _clip,
    "Identity": _identity,
    "Dropout": _identity,
    "Cast": _cast,
}
