"""Static shapes for every value of a graph: those that are missing are inferred, weights left unread."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from ....compiler.ir.clone import clone_model
from ....compiler.ir.weightless import give_weights, take_weights
from ....compiler.ir.weights import DryWeight


def infer_shapes(model: ir.Model) -> ir.Model:
    """`model` itself when all shapes are there, else a copy with inferred ones."""
    if all(_known(value) for node in model.graph for value in node.outputs):
        return model
    copy = clone_model(model)
    dry = take_weights(copy.graph, lambda tensor: isinstance(tensor, DryWeight))  # small ones would be read
    made = ShapeInferencePass(check_type=False, strict_mode=False)(copy).model  # strict, it logs stack traces
    give_weights(made.graph, dry)
    return made


def _known(value: ir.Value) -> bool:
    if not value.uses() and not value.is_graph_output():
        return True  # an unused second output, such as Attention's present_key
    return value.shape is not None and value.dtype is not None and all(isinstance(d, int) for d in value.shape)
