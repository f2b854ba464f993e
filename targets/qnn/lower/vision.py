"""Convolutions and pooling over [1,C,H,W], the same op in fp16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....compiler.diagnostics.diagnostic import fail
from ....compiler.ir.linears import as_linear
from .builder import static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    from .lowering import Lowering


def _conv(low: Lowering, node: ir.Node) -> ir.Value:
    linear, shape = as_linear(node), static_shape(node.outputs[0])
    if linear is None or linear.quant is not None or len(shape) != 4:
        fail(
            "E0634",
            f"`{node.name}`: Conv has a lowering for HTP only with two spatial axes and a constant float weight",
            help=f'`place (device = cpu) on "{node.name}"`, or leave it out of quantize with `except`',
        )
    _, inputs, kernel, _ = linear.shape
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    low.use("conv", node, kernel=kernel, depthwise=group > 1, channels=shape[1], inputs=inputs * group, size=shape[2])
    return _copy(low, node)


def _pool(low: Lowering, node: ir.Node) -> ir.Value:
    shape = static_shape(node.outputs[0])
    if len(shape) != 4 or len(node.outputs) > 1:
        fail("E0634", f"`{node.name}`: this form of {node.op_type} has no lowering for HTP", help="place it on cpu")
    low.use(f"op.{node.op_type}", node, channels=shape[1], size=shape[2])
    return _copy(low, node)


def _copy(low: Lowering, node: ir.Node) -> ir.Value:
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    inputs = [low.value(value) for value in node.inputs if value is not None]
    return low.build.op(node.op_type, *inputs, shape=static_shape(node.outputs[0]), **attributes)


RULES = {"Conv": _conv, "MaxPool": _pool, "AveragePool": _pool, "GlobalAveragePool": _pool}
