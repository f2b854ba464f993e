"""Other types where values enter and leave a graph, for an engine that lacks the graph's own there.

x int64 -> ops -> y float32        becomes        x int32 -> Cast -> ops -> Cast -> y float16
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir


def retype_boundary(graph: ir.Graph, types: Mapping[ir.DataType, ir.DataType]) -> None:
    """Give inputs and outputs of these types the types that stand for them; names and what is inside stay."""
    for value in list(graph.inputs):
        _retype_input(graph, value, types)
    for index, value in enumerate(list(graph.outputs)):
        _retype_output(graph, index, value, types)


def _retype_input(graph: ir.Graph, value: ir.Value, types: Mapping[ir.DataType, ir.DataType]) -> None:
    if value.dtype is None or value.dtype not in types:
        return
    name = f"{value.name}/entered"
    cast = ir.node("Cast", [value], {"to": int(value.dtype)}, name=name)
    made = cast.outputs[0]
    made.name, made.type, made.shape = name, value.type, value.shape
    for use in list(value.uses()):
        if use.node is not cast:
            use.node.replace_input_with(use.idx, made)
    value.type = ir.TensorType(types[value.dtype])
    graph.insert_before(next(iter(graph)), cast)


def _retype_output(graph: ir.Graph, index: int, value: ir.Value, types: Mapping[ir.DataType, ir.DataType]) -> None:
    if value.dtype is None or value.dtype not in types:
        return
    plain = types[value.dtype]
    cast = ir.node("Cast", [value], {"to": int(plain)}, name=f"{value.name}/left")
    made, name = cast.outputs[0], value.name
    made.type, made.shape = ir.TensorType(plain), value.shape
    value.name, made.name = f"{name}/left", name
    graph.append(cast)
    graph.outputs[index] = made
