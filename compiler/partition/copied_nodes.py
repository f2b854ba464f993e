"""Nodes that each reader holds a copy of, because they are no work worth a transfer between parts.

These are nodes computed from constants alone (the dequantised weight of a linear), and shape or elementwise ops on
graph inputs that are on the deploy line's device (the angles of rotary embedding, the rounding of the K/V cache).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..ir.graph_queries import constant_nodes
from .placement import Placement

# fmt: off
_CHEAP = frozenset((
    "Abs", "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Cos", "DequantizeLinear", "Div", "Equal", "Expand",
    "Flatten", "Greater", "Identity", "Less", "Mul", "Neg", "QuantizeLinear", "Range", "Reshape", "Shape", "Sin",
    "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
))
# fmt: on


def copied_nodes(nodes: Sequence[ir.Node], where: Sequence[Placement], deploy_device: str) -> set[int]:
    """Positions in `nodes` (in topological order, placed at `where`) of those that go with their readers."""
    constants = constant_nodes(nodes)
    copied: set[ir.Node] = set()
    positions = set()
    for i, node in enumerate(nodes):
        if any(value.is_graph_output() for value in node.outputs):
            continue
        own = where[i].device == deploy_device and not where[i].target
        cheap = own and node.op_type in _CHEAP and node.domain in ("", "ai.onnx")
        if (cheap or node in constants) and all(_is_at_hand(value, copied) for value in node.inputs):
            copied.add(node)
            positions.add(i)
    return positions


def _is_at_hand(value: ir.Value | None, copied: set[ir.Node]) -> bool:
    """Whether each part has `value` without work of another: an initializer, a graph input, made by a copied node."""
    producer = None if value is None else value.producer()
    return producer is None or producer in copied
