"""The float graph with the weights that a bundle ships in the place of its own: the model as quantisation left it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from ..ir.annotations import JOINED
from ..ir.linears import Linear, linears
from ..ir.module import Module, drop_unread_nodes, drop_unused_initializers, initializer
from ..ir.weights import Weight, slice_rows


def with_weights(module: Module, shipped: Mapping[str, Weight]) -> Module | None:
    """A copy of `module` whose linears multiply by `shipped` rows [N, K]; None where they are not the same linears."""
    made = module.clone()
    graph = made.main.graph
    found = list(linears(made, graph))
    if any(linear.name not in shipped or shipped[linear.name].dims != linear.shape for linear in found):
        return None
    for linear in found:
        _put(graph, linear, shipped[linear.name])
    drop_unread_nodes(graph, lambda node: node.op_type == "Transpose")
    drop_unused_initializers(graph)
    return made


def apart(shipped: Mapping[str, Weight], rows: Sequence[Mapping[str, Any]]) -> dict[str, Weight]:
    """`shipped` with the rows of joined linears under their own names; `rows`: the weights of the manifest."""
    made = dict(shipped)
    for row in rows:
        text = row.get("facts", {}).get(JOINED.key)
        if text is None or JOINED.parse is None or row["name"] not in made:
            continue
        whole, start = made.pop(row["name"]), 0
        for name, count in JOINED.parse(text):
            made[name] = slice_rows(name, whole, start, start + count)
            start += count
    return made


def _put(graph: ir.Graph, linear: Linear, weight: Weight) -> None:
    value = initializer(graph, f"{linear.name}.shipped", weight)
    node, place = linear.node, 0 if linear.kind == "gather" else 1
    if linear.kind == "matmul":
        turned = ir.node("Transpose", [value], {"perm": [1, 0]}, name=f"{linear.name}.shipped_transpose")
        turned.outputs[0].name = f"{linear.name}.shipped_transposed"
        graph.insert_before(node, turned)
        value = turned.outputs[0]
    elif linear.kind == "gemm":
        node.attributes.add(ir.AttrInt64("transB", 1))
    node.replace_input_with(place, value)
