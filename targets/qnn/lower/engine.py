"""A static general graph as it stands, for the lowering that ONNX Runtime's QNN provider has of its own.

Floats stay float32 inside, where the provider computes them in fp16; they enter and leave in float16, and integers of
64 bits in 32. Weights that are quantised beside float activations are floats again: HTP has no such form; beside
integer ones those of a product lie as it reads them, as the provider takes no Transpose behind a DequantizeLinear.
Inputs that nothing reads are left out, as an NPU graph has none.

    MatMul(x, Transpose(DQ(q[N,K], s[N], axis 0)))   ->   MatMul(x, DQ(q[K,N], s[N], axis 1))
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
from ....compiler.ir.module import constant, drop_unused_initializers, initializer
from ....compiler.ir.weights import transpose
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
    integers = quantised(shaped.graph)
    copy = clone_model(shaped if integers else with_float_weights(shaped))
    graph = copy.graph
    if integers:
        _turn_weights(graph)
    for value in list(graph.inputs):
        if not value.uses() and not value.is_graph_output() and not value.is_initializer():
            graph.inputs.remove(value)
    retype_boundary(graph, _NARROW)
    graph.name = name
    return Lowered(copy, [], {})


def _turn_weights(graph: ir.Graph) -> None:
    """Quantised weights of products as these read them, turned once."""
    for turn in [node for node in graph if node.op_type == "Transpose"]:
        held = turn.inputs[0]
        dequantize = held.producer() if held is not None and len(tuple(held.uses())) == 1 else None
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        q, scale = constant(dequantize.inputs[0]), constant(dequantize.inputs[1])
        flat = q is not None and len(q.dims) == 2 and not dequantize.attributes.get_int("block_size", 0)
        if q is None or scale is None or not flat or len(scale.dims) > 1 or turn.outputs[0].is_graph_output():
            continue
        turned, made = transpose(q), turn.outputs[0]
        value = initializer(graph, f"{turn.name}/turned", turned)
        axis = {"axis": 1 - dequantize.attributes.get_int("axis", 1) % 2} if scale.dims else {}
        straight = ir.node("DequantizeLinear", [value, *dequantize.inputs[1:]], axis, name=dequantize.name)
        new = straight.outputs[0]
        new.name, new.type, new.shape, made.name = made.name, made.type, made.shape, None
        graph.insert_before(dequantize, straight)
        made.replace_all_uses_with(new)
        graph.remove([turn, dequantize], safe=True)
    drop_unused_initializers(graph)


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
