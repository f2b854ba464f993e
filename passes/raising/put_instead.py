"""One op in the place of the nodes that make a value, which go where nothing else reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ...compiler.ir.module import Module, drop_unread_nodes, drop_unused_initializers
from ...compiler.pipeline.pass_interface import Scope
from ...compiler.sources.onnx.decoder.walk import Declined

Raised = Callable[[ir.Node], tuple[ir.Value, ir.Node] | None]


def raise_all(module: Module, scope: Scope, op_types: Sequence[str], raised: Raised) -> int:
    """Put what `raised` finds at nodes of `op_types` in their place; what it declines is told. Returns how many."""
    count = 0
    for model in module.graphs.values():
        graph = model.graph
        for anchor in [node for node in graph if node.op_type in op_types and scope.selects(node.name or "")]:
            if anchor.graph is None:
                continue  # it went with another
            try:
                found = raised(anchor)
            except Declined as reason:
                scope.skip(anchor.name or "", str(reason))
                continue
            if found is not None:
                _put_instead(graph, *found)
                count += 1
        if count:
            drop_unread_nodes(graph, lambda _node: True)
            drop_unused_initializers(graph)
    return count


def _put_instead(graph: ir.Graph, value: ir.Value, node: ir.Node) -> None:
    """Let `node` make `value`: it has the name of the node that made it."""
    old = value.producer()
    if old is None:
        raise ValueError(f"`{value.name}` is made by no node")
    node.name, made = old.name, node.outputs[0]
    made.type, made.shape = value.type, value.shape
    graph.insert_before(old, node)
    made.name, value.name = value.name, None
    value.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.remove(old, safe=True)
