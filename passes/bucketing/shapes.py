"""The numbers of one bucket put into a decoder's graph: every symbolic dimension gets its value.

input_ids [B,S]   attention_mask [M,1,S,T]   past_*_in [B,G,P,D]      B = M = 1, S = tokens, T = context, P = T - S
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from ...compiler.diagnostics.diagnostic import fail
from ...compiler.ir import kv_names
from ...compiler.ir.clone import clone_model
from ...compiler.ir.module import BucketShape
from ...compiler.pipeline.pass_interface import Scope


def specialise(main: ir.Model, bucket: BucketShape, scope: Scope) -> ir.Model:
    """A copy of `main` with static shapes; the weights are the same objects."""
    model = clone_model(main)
    graph = model.graph
    graph.name = bucket.name
    numbers = _numbers(graph, bucket)
    for value in graph.inputs:
        value.shape = _static(value.shape, numbers)
    unknown = False
    for node in graph:
        for output in node.outputs:
            output.shape = _static(output.shape, numbers)
            unknown |= bool(output.name) and not _known(output)
    if unknown:
        ShapeInferencePass(check_type=False, strict_mode=False)(model)  # in place; big weights stay out of it
    _demand_static(graph, bucket, scope)
    return model


def _numbers(graph: ir.Graph, bucket: BucketShape) -> dict[str, int]:
    """What each symbol of the inputs' shapes stands for."""
    past = bucket.context - bucket.tokens
    numbers: dict[str, int] = {}
    for value in graph.inputs:
        name = value.name or ""
        if name in ("input_ids", "position_ids"):
            expected: tuple[int | None, ...] = (1, bucket.tokens)
        elif name == "attention_mask":
            expected = (1, 1, bucket.tokens, bucket.context)
        elif kv_names.is_cache(name):
            expected = (1, None, past, None)
        else:
            continue
        for dim, number in zip(value.shape or (), expected, strict=True):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None and number is not None:
                numbers[dim.value] = number
    return numbers


def _static(shape: ir.Shape | None, numbers: dict[str, int]) -> ir.Shape | None:
    if shape is None:
        return None
    return ir.Shape([numbers.get(d.value or "", d) if isinstance(d, ir.SymbolicDim) else d for d in shape])


def _known(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static()


def _demand_static(graph: ir.Graph, bucket: BucketShape, scope: Scope) -> None:
    for node in graph:
        for output in node.outputs:
            if output.name and not _known(output) and (output.uses() or output.is_graph_output()):
                shape = "unknown" if output.shape is None else f"{output.shape}"
                fail(
                    "E0418",
                    f"`{output.name}`, made by `{node.name}`, has no static shape in bucket `{bucket.name}`: {shape}",
                    scope.origin,
                    help="let the pass that made it give its outputs a shape in terms of the graph's symbols",
                )
