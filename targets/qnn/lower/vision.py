"""Convolutions and pooling over [1,C,H,W], the same op in fp16.

    out = floor or ceil ((in + pads - (kernel - 1) * dilation - 1) / stride) + 1

Attributes are emitted in one form each, so that the conformance table has one row for what is one computation:
`auto_pad` as the pads it stands for, `ceil_mode` and `count_include_pad` only where they change something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....compiler.emit.refusals import refuse
from ....compiler.ir.attributes import Value, attributes, defaults
from ....compiler.ir.linears import as_linear
from .builder import ON_CPU, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    from .lowering import Lowering


def _conv(low: Lowering, node: ir.Node) -> ir.Value:
    linear, shape = as_linear(node), static_shape(node.outputs[0])
    if linear is None or linear.quant is not None or len(shape) != 4:
        refuse(
            "E0634",
            "{}: Conv has a lowering for HTP only with two spatial axes and a constant float weight",
            node.name or "",
            help="`place (device = cpu) on {on}`, or leave it out of quantize with `except`",
            cause="place" if linear is None or linear.quant is None else "format",
        )
    given, group = _window(node), node.attributes.get_int("group", 1) or 1
    inputs = linear.shape[1] * group
    cells = _grouping(group, inputs, shape[1])
    low.use("conv", node, given, channels=shape[1], inputs=inputs, size=shape[2], **cells)
    return _copy(low, node, {**given, "group": group})


def _grouping(group: int, inputs: int, channels: int) -> dict[str, Any]:
    depthwise = group > 1 and group == inputs == channels
    return {"depthwise": depthwise} if depthwise or group == 1 else {"depthwise": False, "groups": group}


def _pool(low: Lowering, node: ir.Node) -> ir.Value:
    shape = static_shape(node.outputs[0])
    if len(shape) != 4 or len(node.outputs) > 1:
        refuse("E0634", f"{{}}: this form of {node.op_type} has no lowering for HTP", node.name or "", help=ON_CPU)
    given = _window(node)
    low.use(f"op.{node.op_type}", node, given, channels=shape[1], size=shape[2])
    return _copy(low, node, given)


def _global_pool(low: Lowering, node: ir.Node) -> ir.Value:
    shape, x = static_shape(node.outputs[0]), node.inputs[0]
    if x is None or len(shape) != 4:
        refuse("E0634", f"{{}}: this form of {node.op_type} has no lowering for HTP", node.name or "", help=ON_CPU)
    low.use(f"op.{node.op_type}", node, channels=shape[1], window=static_shape(x)[2])
    return _copy(low, node, {})


def _window(node: ir.Node) -> dict[str, Value]:
    """The window's attributes as they are emitted; all of them, where they change nothing at their default."""
    x = node.inputs[0]
    if x is None:
        raise ValueError(f"`{node.name}` lacks its input")
    found, inside, outside = attributes(node), static_shape(x)[2:], static_shape(node.outputs[0])[2:]
    kernel, strides, dilations = (_ints(found[name]) for name in ("kernel_shape", "strides", "dilations"))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(str(found["auto_pad"]), _ints(found["pads"]), inside, reach, strides)
    given: dict[str, Value] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    if node.op_type == "Conv":
        return given
    room = [size + pads[i] + pads[i + len(inside)] - r for i, (size, r) in enumerate(zip(inside, reach, strict=True))]
    fits = all(out == free // stride + 1 for out, free, stride in zip(outside, room, strides, strict=True))
    given["ceil_mode"] = 0 if fits else found["ceil_mode"]
    if node.op_type == "AveragePool":
        given["count_include_pad"] = found["count_include_pad"] if any(pads) or given["ceil_mode"] else 0
    return given


def _pads(
    auto: str, stated: tuple[int, ...], inside: tuple[int, ...], reach: list[int], strides: tuple[int, ...]
) -> tuple[int, ...]:
    """ONNX's `auto_pad` as pads: those at the beginning of each axis, then those at the end."""
    if auto == "NOTSET":
        return stated
    if auto == "VALID":
        return (0, 0) * len(inside)
    sizes = zip(inside, reach, strides, strict=True)
    totals = [max((-(-size // stride) - 1) * stride + r - size, 0) for size, r, stride in sizes]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (*small, *large) if auto == "SAME_UPPER" else (*large, *small)


def _ints(value: Value) -> tuple[int, ...]:
    return tuple(int(i) for i in value) if isinstance(value, tuple) else ()


def _copy(low: Lowering, node: ir.Node, given: dict[str, Value]) -> ir.Value:
    inputs = [low.value(value) for value in node.inputs if value is not None]
    usual = defaults(node)
    emitted: dict[str, Any] = {name: v for name, v in given.items() if name == "kernel_shape" or v != usual.get(name)}
    return low.build.op(node.op_type, *inputs, shape=static_shape(node.outputs[0]), **emitted)


RULES = {"Conv": _conv, "MaxPool": _pool, "AveragePool": _pool, "GlobalAveragePool": _global_pool}
