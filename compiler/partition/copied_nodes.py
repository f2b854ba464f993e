"""Nodes that each reader holds a copy of, because they are no work worth a transfer between parts.

These are nodes computed from constants alone (the dequantised weight of a linear), and shape or elementwise ops on
graph inputs that are on the deploy line's device (the angles of rotary embedding).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..ir.module import constant
from .placement import Placement

# fmt: off
_CHEAP = frozenset((
    "Abs", "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Cos", "Div", "Equal", "Expand", "Flatten",
    "Greater", "Identity", "Less", "Mul", "Neg", "Range", "Reshape", "Shape", "Sin", "Slice", "Split", "Sqrt",
    "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
))
# fmt: on


def copied_nodes(nodes: Sequence[ir.Node], where: Sequence[Placement], deploy_device: str) -> set[int]:
    """Positions in `nodes` (in topological order, placed at `where`) of those that go with their readers."""
    constant_only: dict[ir.Node, bool] = {}  # copied node -> whether it is computed from constants alone
    positions = set()
    for i, node in enumerate(nodes):
        if any(value.is_graph_output() for value in node.outputs):
            continue
        kinds = [_from_constants(value, constant_only) for value in node.inputs if value is not None]
        constants = all(kind is True for kind in kinds)
        cheap = node.op_type in _CHEAP and node.domain in ("", "ai.onnx") and where[i].device == deploy_device
        if constants or (cheap and all(kind is not None for kind in kinds)):
            constant_only[node] = constants
            positions.add(i)
    return positions


def _from_constants(value: ir.Value, constant_only: dict[ir.Node, bool]) -> bool | None:
    """True: of constants alone; False: of graph inputs by cheap ops; None: the work of a node."""
    if constant(value) is not None:
        return True
    producer = value.producer()
    return False if producer is None else constant_only.get(producer)
