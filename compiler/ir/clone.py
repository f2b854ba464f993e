"""Copies of graphs that can be rewritten without a trace in the original.

onnx-ir's own clone shares the values' types with the original, and setting `value.dtype` writes into the type.
"""

from __future__ import annotations

import copy

import onnx_ir as ir


def clone_model(model: ir.Model) -> ir.Model:
    """A copy of `model`: nodes, values and types are its own, the weights are shared."""
    made = model.clone()
    own_types(made.graph)
    return made


def own_types(graph: ir.Graph) -> None:
    """Give every value of a graph that was just cloned a type of its own."""
    results = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *results):
        value.type = copy.copy(value.type)
