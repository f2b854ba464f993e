"""Quantised weights as the floats that they stand for, for engines that take no integers where they are."""

from __future__ import annotations

import onnx_ir as ir

from .clone import clone_model
from .linears import as_quantized
from .module import drop_unused_initializers, initializer
from .weights import Weight


def with_float_weights(model: ir.Model) -> ir.Model:
    """A copy with the floats that quantised weights stand for in their place; `model` itself where it has none."""
    if not any(as_quantized(node) is not None for node in model.graph):
        return model
    copy = clone_model(model)
    for node in list(copy.graph):
        held = as_quantized(node)
        if held is None:
            continue
        made = node.outputs[0]
        weight = Weight(made.name or "", ir.DataType.FLOAT, held.q.dims, held.rows, "dequantised")
        floats = initializer(copy.graph, f"{made.name}.floats", weight)
        made.replace_all_uses_with(floats, replace_graph_outputs=True)
        copy.graph.remove(node, safe=True)
    drop_unused_initializers(copy.graph)
    return copy
