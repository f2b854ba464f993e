"""Linears by table lookup in the graphs of a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from ...compiler.emit.stored_weight import StoredWeight
from ...compiler.ir.bit_planes import EXTENT, PANEL
from ...compiler.ir.domains import OWN_DOMAIN
from ...compiler.ir.linears import Linear
from ...compiler.ir.module import constant, initializer
from ...compiler.ir.ops.lut_gemv import LUT_GEMV, LutGemv
from ...compiler.ir.opset import IR_VERSION, OPSET
from ...compiler.ir.weights import from_array
from ...compiler.kernels.shapes import Shape, worth_specialising

_KINDS = {8: "int8", 16: "fp16", 32: "float32"}  # by the bits of a sum


def table_kind(models: Iterable[ir.Model]) -> str | None:
    """How the tables of these graphs are held, those of least exactness if they differ; None without a lookup."""
    found = [node.attributes.get_int("tables", 8) for model in models for node in model.graph if is_lookup(node)]
    return _KINDS[min(found)] if found else None


def shapes_of(models: Iterable[ir.Model]) -> tuple[Shape, ...]:
    """The shapes of these graphs' linears with tables of int8 that kernels are to be specialised for."""
    nodes = (node for model in models for node in model.graph if is_lookup(node))
    return worth_specialising(
        found for node in nodes if node.attributes.get_int("tables", 8) == 8 for found in _shape(node)
    )


def _shape(node: ir.Node) -> Iterator[tuple[Shape, int]]:
    """The shape of a LutGemv whose planes are constant, and its outputs."""
    planes, read = constant(node.inputs[1]), node.attributes.get_int
    extents = planes.shape[1] if planes is not None else None
    if isinstance(extents, int):
        yield Shape(extents * EXTENT, read("bits", 4), read("block_size", 32)), read("outputs", 0)


def is_lookup(node: ir.Node) -> bool:
    """Whether `node` is an `ai.edgec::LutGemv`."""
    return (node.domain, node.op_type) == (OWN_DOMAIN, LUT_GEMV)


def is_prompt(node: ir.Node) -> bool:
    """Whether `node` is a LutGemv of as many rows as its weights' values are to be made for."""
    least, x = node.attributes.get_int("dequantise", 0), node.inputs[0]
    if not is_lookup(node) or not least or x is None or x.shape is None:
        return False
    rows = list(x.shape)[:-1]
    return all(isinstance(size, int) for size in rows) and prod(int(str(size)) for size in rows) >= least


def lookup_bytes(linear: Linear) -> StoredWeight:
    """Planes, scales and zero points as they are in the file."""
    held = [weight.nbytes for weight in map(constant, linear.node.inputs[1:]) if weight is not None]
    return StoredWeight(sum(held), bits=linear.node.attributes.get_int("bits", 4))


def panels_alone(node: ir.Node, panels: Sequence[slice], outputs: int) -> tuple[ir.Model, ir.Value]:
    """An emitted LutGemv of `outputs` outputs with some of its panels, and the value it is fed."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    fed, made = ir.Value(name="fed", type=kind), ir.Value(name="made", type=kind)
    graph = ir.Graph([fed], [made], nodes=[], opset_imports={"": OPSET}, name="linear")
    model, held = ir.Model(graph, ir_version=IR_VERSION), []
    for value in node.inputs[1:]:
        weight = constant(value)
        if weight is None:
            raise ValueError(f"`{node.name}` has no constant weight")
        parts = [weight.rows(at.start, at.stop) for at in panels] if weight.size > 1 else [weight.numpy()]
        held.append(initializer(graph, weight.name, from_array(weight.name, np.concatenate(parts))))
    count = sum(min(at.stop * PANEL, outputs) - at.start * PANEL for at in panels)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()} | {"outputs": count}
    graph.append(LutGemv().node(model, node.name or "linear", [fed, *held], made, **attributes))
    return model, fed
