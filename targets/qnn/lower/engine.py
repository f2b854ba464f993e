"""A static general graph as it stands, for the lowering that ONNX Runtime's QNN provider has of its own.

Floats stay float32 inside, where the provider computes them in fp16; they enter and leave in float16, and integers of
64 bits in 32. Weights that are quantised beside float activations are floats again: HTP has no such form. Inputs that
nothing reads are left out, as an NPU graph has none.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ....compiler.emit.capabilities import Refusal
from ....compiler.emit.refusals import Refused
from ....compiler.ir.activation_encodings import quantised
from ....compiler.ir.boundary import retype_boundary
from ....compiler.ir.clone import clone_model
from ....compiler.ir.float_weights import with_float_weights
from .builder import refuse_output, static_shape
from .lowering import Lowered
from .static_shapes import infer_shapes

_NARROW = {
    ir.DataType.FLOAT: ir.DataType.FLOAT16,
    ir.DataType.DOUBLE: ir.DataType.FLOAT16,
    ir.DataType.INT64: ir.DataType.INT32,
}


def as_it_stands(model: ir.Model, name: str) -> Lowered:
    """The graph with every shape stated, under the name that the binary knows it by."""
    shaped = infer_shapes(model)
    copy = clone_model(shaped if quantised(shaped.graph) else with_float_weights(shaped))
    graph = copy.graph
    for value in list(graph.inputs):
        if not value.uses() and not value.is_graph_output() and not value.is_initializer():
            graph.inputs.remove(value)
    retype_boundary(graph, _NARROW)
    graph.name = name
    return Lowered(copy, [], {})


def refused_boundary(graphs: Mapping[str, ir.Model]) -> list[Refusal]:
    """What no graph for the NPU can have at its boundary, whoever lowers it: open sizes, inputs that are outputs."""
    found = []
    for model in graphs.values():
        for value in model.graph.inputs:
            try:
                static_shape(value)
                if value.is_graph_output():
                    refuse_output(value, "an input")
            except Refused as problem:
                found.append(problem.refusal)
    return found
