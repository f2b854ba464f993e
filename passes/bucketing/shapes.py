"""The numbers of one bucket put into a decoder's graph: every symbolic dimension gets its value.

input_ids [B,S]   attention_mask [M,1,S,T]   past_*_in [B,G,P,D]      B = M = 1, S = tokens, T = context, P = T - S
"""

from __future__ import annotations

import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import fail
from ...compiler.ir.module import BucketShape
from ...compiler.pipeline.pass_interface import Scope

_STRIP = 1024  # bytes: constants above this are no shapes, inference need not see them


def specialise(main: ir.Model, bucket: BucketShape, scope: Scope) -> ir.Model:
    """A copy of `main` with static shapes; the weights are the same objects."""
    model = main.clone()
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
        _infer(model)
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
        elif name.startswith("past_"):
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


def _infer(model: ir.Model) -> None:
    """Fill the shapes a pass left open; big constants stay out of it."""
    import onnx

    held = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _STRIP:
            held[value] = tensor
            value.const_value = None
    inputs = list(model.graph.inputs)
    try:
        for value in held:  # a value without data has to be an input for the checker
            model.graph.initializers.pop(value.name or "")
            model.graph.inputs.append(value)
        inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    finally:
        del model.graph.inputs[len(inputs) :]
        for value, tensor in held.items():
            value.const_value = tensor
            model.graph.register_initializer(value)
    shapes = {info.name: info.type.tensor_type for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in model.graph:
        for output in node.outputs:
            found = shapes.get(output.name or "")
            if not _known(output) and found is not None:
                output.shape = ir.Shape([d.dim_value if d.HasField("dim_value") else None for d in found.shape.dim])
                output.type = ir.TensorType(ir.DataType(found.elem_type))


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
