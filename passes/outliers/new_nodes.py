"""Nodes that a split adds in front of a linear."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...compiler.ir.annotations import SHADOW


def cpu_node(
    graph: ir.Graph,
    op: str,
    inputs: Sequence[ir.Value],
    name: str,
    like: ir.Value,
    before: ir.Node,
    **attributes: int | list[int],
) -> ir.Node:
    """A node of a shadow, whose first output has the type and shape of `like`."""
    node = node_before(graph, op, inputs, name, like, before, **attributes)
    SHADOW.set(node, "cpu")
    return node


def node_before(
    graph: ir.Graph,
    op: str,
    inputs: Sequence[ir.Value],
    name: str,
    like: ir.Value,
    before: ir.Node,
    **attributes: int | list[int],
) -> ir.Node:
    """A node in front of `before`, whose output is named `<name>.out`."""
    output = ir.Value(name=f"{name}.out", type=like.type, shape=like.shape)
    node = ir.node(op, inputs, attributes, outputs=[output], name=name)
    graph.insert_before(before, node)
    return node
