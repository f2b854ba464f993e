"""The ops that cut a tensor to its largest channels, before the linears that read it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...compiler.ir.active_channels import CUT
from ...compiler.ir.annotations import ACTIVE
from ...compiler.ir.linears import Linear, linears
from ...compiler.ir.module import Module, initializer
from ...compiler.ir.weights import from_array
from ...compiler.pipeline.pass_interface import Scope


def cut_inputs(module: Module, scope: Scope, part: float) -> int:
    """Cut what the selected linears read to `part` of its channels; how many linears that were."""
    chosen: dict[ir.Value, list[Linear]] = {}
    before = 0
    for linear in linears(module):
        if linear.kind in ("gather", "conv", "own") or not scope.selects(linear.name):
            continue
        kept, value = _kept(linear, part), linear.node.inputs[0]
        if ACTIVE.get(linear.node) is not None:
            before += 1
            if ACTIVE.get(linear.node) != kept:
                scope.skip(linear.node, "its input is cut already")
        elif value is None or linear.value is value:
            scope.skip(linear.node, "its weight comes first: no input to cut")
        elif kept == linear.shape[1]:
            scope.skip(linear.node, f"{kept} channels are all of its input")
        else:
            chosen.setdefault(value, []).append(linear)
    for value, readers in chosen.items():
        _cut(module, value, readers, _kept(readers[0], part))
    found = [linear for readers in chosen.values() for linear in readers]
    if found:
        weights = sum(linear.shape[0] * linear.shape[1] for linear in found)
        scope.note(f"{len(found)} linears of {weights / 1e6:.1f} M weights read {100 * part:g} % of their channels")
    return len(found)


def _kept(linear: Linear, part: float) -> int:
    return max(1, round(part * linear.shape[1]))


def _cut(module: Module, value: ir.Value, readers: list[Linear], kept: int) -> None:
    graph = module.main.graph
    stem = f"{readers[0].name}.{CUT}"
    count = initializer(graph, f"{stem}.count", from_array(f"{stem}.count", np.array([kept], np.int64)))
    last = initializer(graph, f"{stem}.axes", from_array(f"{stem}.axes", np.array([-1], np.int64)))
    zero = initializer(graph, f"{stem}.zero", from_array(f"{stem}.zero", np.array(0, np.float32)))
    size = ir.node("Abs", [value], name=f"{stem}.abs")
    top = ir.node("TopK", [size.outputs[0], count], {"axis": -1, "sorted": 0}, num_outputs=2, name=f"{stem}.top")
    least = ir.node("ReduceMin", [top.outputs[0], last], {"keepdims": 1}, name=f"{stem}.least")
    large = ir.node("GreaterOrEqual", [size.outputs[0], least.outputs[0]], name=f"{stem}.large")
    where = ir.node("Where", [large.outputs[0], value, zero], name=f"{stem}.where")
    shape = list(value.shape) if value.shape is not None else None
    for node, dims, dtype in (
        (size, shape, value.dtype),
        (least, None if shape is None else [*shape[:-1], 1], value.dtype),
        (large, shape, ir.DataType.BOOL),
        (where, shape, value.dtype),
    ):
        _typed(node.outputs[0], f"{node.name}.out", dims, dtype)
    tops = None if shape is None else [*shape[:-1], kept]
    _typed(top.outputs[0], f"{stem}.top.values", tops, value.dtype)
    _typed(top.outputs[1], f"{stem}.top.channels", tops, ir.DataType.INT64)
    at = next(node for node in graph if any(node is reader.node for reader in readers))
    graph.insert_before(at, [size, top, least, large, where])
    for reader in readers:
        reader.node.replace_input_with(0, where.outputs[0])
        ACTIVE.set(reader.node, kept)


def _typed(value: ir.Value, name: str, dims: list | None, dtype: ir.DataType | None) -> None:
    value.name = name
    if dtype is not None:
        value.dtype = dtype
    value.shape = None if dims is None else ir.Shape(dims)
