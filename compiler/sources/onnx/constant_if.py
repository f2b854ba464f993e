"""An If whose condition is a constant is the branch that it takes."""

from __future__ import annotations

import onnx_ir as ir

from ...ir.module import constant
from ...ir.weights import numbers


def inline_branch(graph: ir.Graph, node: ir.Node) -> bool:
    """Whether `node`, an If, was replaced by the nodes of its branch; names that the graph has already get its own."""
    held = constant(node.inputs[0])
    if held is None or held.size != 1:
        return False
    taken = "then_branch" if bool(numbers(held).reshape(-1)[0]) else "else_branch"
    branch = node.attributes[taken].as_graph()
    known = {value.name for value in graph.inputs} | set(graph.initializers)
    known |= {value.name for one in graph for value in one.outputs}
    _adopt_constants(graph, node, branch, known)
    nodes, results = list(branch), list(branch.outputs)
    branch.outputs.clear()
    branch.remove(nodes)
    for inner in nodes:
        for value in inner.outputs:
            if value.name in known:
                value.name = f"{node.name}.{value.name}"
    graph.insert_before(node, nodes)
    for old, new in zip(node.outputs, results, strict=True):
        _replace(graph, node, old, new)
    graph.remove(node, safe=True)
    return True


def _adopt_constants(graph: ir.Graph, node: ir.Node, branch: ir.Graph, known: set[str | None]) -> None:
    for name, value in list(branch.initializers.items()):
        del branch.initializers[name]
        if name in known:
            value.name = f"{node.name}.{name}"
        graph.register_initializer(value)


def _replace(graph: ir.Graph, node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """`new` in the place of a result of the If; what the graph gives out is made by a node, under its own name."""
    maker = new.producer()
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
    elif maker is not None and maker.graph is graph and not new.is_graph_output():
        new.name, old.name = old.name, None
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    else:
        copy = ir.node("Identity", [new], name=f"{node.name}.{old.name}")
        made = copy.outputs[0]
        made.name, made.type, made.shape, old.name = old.name, old.type, old.shape, None
        graph.insert_before(node, copy)
        old.replace_all_uses_with(made, replace_graph_outputs=True)
