"""The body of an own op run in torch: its standard ops, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch

if TYPE_CHECKING:
    from ..ir.ops.op_definition import OpDefinition

Tensors = list[torch.Tensor]
Compute = Callable[[ir.Node, "list[torch.Tensor | None]"], "tuple[torch.Tensor, ...]"]


def run_body(
    definition: OpDefinition, node: ir.Node, inputs: list[torch.Tensor | None], compute: Compute
) -> tuple[torch.Tensor, ...]:
    """The outputs of `node` for `inputs`, by the body of its op; `compute` runs one standard op."""
    body = definition.body_of(node)
    values = dict(zip(body.inputs, inputs, strict=False))
    for inner in body:
        made = compute(inner, [None if v is None else values.get(v) for v in inner.inputs])
        values.update(zip(inner.outputs, made, strict=False))
    return tuple(made for made in (values[output] for output in body.outputs) if made is not None)


def _constant(node: ir.Node, _: Tensors) -> torch.Tensor:
    (attribute,) = node.attributes.values()
    if attribute.type == ir.AttributeType.TENSOR:
        return torch.from_numpy(np.array(attribute.as_tensor().numpy()))
    dtype = torch.float32 if "float" in attribute.name else torch.int64
    return torch.tensor(attribute.value, dtype=dtype)


def _shift(node: ir.Node, x: Tensors) -> torch.Tensor:
    left = node.attributes["direction"].as_string() == "LEFT"
    return x[0] << x[1] if left else x[0] >> x[1]


# What bodies are made of besides the ops of decoders: unpacking integers.
RULES: Mapping[str, Callable[[ir.Node, Tensors], torch.Tensor]] = {
    "BitShift": _shift,
    "BitwiseAnd": lambda node, x: x[0] & x[1],
    "BitwiseOr": lambda node, x: x[0] | x[1],
    "Concat": lambda node, x: torch.cat(x, dim=node.attributes["axis"].as_int()),
    "Constant": _constant,
    "Div": lambda node, x: x[0] / x[1],
    "Sub": lambda node, x: x[0] - x[1],
}
