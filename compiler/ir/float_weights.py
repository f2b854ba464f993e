"""Quantised weights as the floats that they stand for, for engines that take no integers where they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .clone import clone_model
from .linears import QuantizedWeight, as_quantized
from .module import drop_unused_initializers, initializer
from .weights import Weight, from_array


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
        weight = _floats(made.name or "", held)
        floats = initializer(copy.graph, f"{made.name}.floats", weight)
        made.replace_all_uses_with(floats, replace_graph_outputs=True)
        copy.graph.remove(node, safe=True)
    drop_unused_initializers(copy.graph)
    return copy


def _floats(name: str, held: QuantizedWeight) -> Weight:
    """(q - zero_point) * scale, by rows; where scales do not lie along the rows, whole."""
    axis = held.node.attributes.get_int("axis", 1) % max(1, len(held.q.dims))
    if held.block is not None or held.minimum is not None or (held.scale.dims and axis == 0):
        return Weight(name, ir.DataType.FLOAT, held.q.dims, held.rows, "dequantised")
    along = [-1 if at == axis and held.scale.dims else 1 for at in range(len(held.q.dims))]
    zero = 0 if held.zero_point is None else held.zero_point.numpy().astype(np.float32).reshape(along)
    return from_array(name, (held.q.numpy().astype(np.float32) - zero) * held.scale.numpy().reshape(along))
