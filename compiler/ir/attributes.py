"""The attributes of a node as the schema of its op has them: each one, whether or not the node states it.

What the node leaves out gets the schema's default. Windows (convolutions, poolings) have defaults that depend on the
rank, which schemas cannot say; they are filled in here, and a convolution's `kernel_shape` from its weight:

    strides, dilations  1 per spatial axis      pads  0, 0 per spatial axis
"""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir

from .opset import OPSET

Value = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | None
WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")  # ops with a window over spatial axes
_DIGITS = 6  # of a float32 that was written in decimal


def attributes(node: ir.Node) -> dict[str, Value]:
    """Name -> value of every attribute of the op; None where neither node nor schema gives one.

    Floats are rounded to six digits, strings are text, lists tuples. An op without a schema (another domain) has the
    attributes that it states.
    """
    stated = {name: _value(attribute) for name, attribute in node.attributes.items()}
    return {**defaults(node), **_kernel(node), **stated}


def defaults(node: ir.Node) -> dict[str, Value]:
    """What each attribute of the node's op is when the node leaves it out."""
    found = dict(_schema_defaults(node.op_type)) if node.domain in ("", "ai.onnx") else {}
    return {**found, **_window_defaults(node)} if node.op_type in WINDOWS and found else found


@functools.cache
def _schema_defaults(op_type: str) -> tuple[tuple[str, Value], ...]:
    if not onnx.defs.has(op_type, max_inclusive_version=OPSET):
        return ()
    schema = onnx.defs.get_schema(op_type, OPSET)
    return tuple((name, _default(attribute.default_value)) for name, attribute in sorted(schema.attributes.items()))


def _default(proto: onnx.AttributeProto) -> Value:
    return _plain(onnx.helper.get_attribute_value(proto)) if proto.type else None


def _window_defaults(node: ir.Node) -> dict[str, Value]:
    x = node.inputs[0]
    if x is None or x.shape is None or len(x.shape) < 3:
        return {}
    axes = len(x.shape) - 2
    return {"strides": (1,) * axes, "dilations": (1,) * axes, "pads": (0, 0) * axes}


def _kernel(node: ir.Node) -> dict[str, Value]:
    """A convolution that leaves out `kernel_shape` has its weight's."""
    weight = node.inputs[1] if node.op_type in ("Conv", "ConvTranspose") else None
    if weight is None or weight.shape is None or not weight.shape.is_static():
        return {}
    return {"kernel_shape": tuple(d for d in weight.shape[2:] if isinstance(d, int))}


def _value(attribute: ir.Attr) -> Value:
    plain = (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING)
    lists = (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS)
    return _plain(attribute.value) if attribute.type in (*plain, *lists) else str(attribute.type.name.lower())


def _plain(value: object) -> Value:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, (int, str)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)  # pyright: ignore[reportReturnType]
    raise TypeError(f"an attribute of type {type(value).__name__}")
