"""One node of a model as a graph of its own, with random numbers: what is run where no table holds its use.

    … -> DQ(Q(x)) -> node(x, W, …) -> …        becomes        x0 -> node(x0, W', …) -> y0

Activations become inputs, in floats. Constants that are known stay; those of a dry run get numbers. All numbers are
such that a half holds them exactly, so that what differs is the engine.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ...ir.module import constant
from ...ir.weights import DryWeight, Weight, from_array

Feeds = dict[str, np.ndarray]
_FLOAT = ir.DataType.FLOAT
_POSITIVE = {"Sqrt": ("x0",), "Log": ("x0",), "Pow": ("x0",), "Div": ("x1",)}  # operands that must stay away from 0
_POOLS = ("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool")


def alone(node: ir.Node, seed: int = 7) -> ir.Model | None:
    """The graph of `node` alone; None if one of its tensors has no rank, or is neither a constant nor of floats."""
    rng = np.random.default_rng(seed)
    inputs: list[ir.Value | None] = []
    initializers: list[ir.Value] = []
    activations: list[ir.Value] = []
    for index, value in enumerate(node.inputs):
        if value is None:
            inputs.append(None)
            continue
        held = constant(value)
        made = _activation(f"x{index}", value) if held is None else _constant(f"c{index}", _numbers(held, rng))
        if made is None:
            return None
        (activations if held is None else initializers).append(made)
        inputs.append(made)
    outputs = [_activation(f"y{index}", value) for index, value in enumerate(node.outputs)]
    whole = [value for value in outputs if value is not None]
    if len(whole) < len(outputs):
        return None
    copied = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), outputs=whole, name="op")
    imports = dict(node.graph.opset_imports) if node.graph is not None else {}
    graph = ir.Graph(activations, whole, nodes=[copied], initializers=initializers, opset_imports=imports, name="case")
    return ir.Model(graph, ir_version=11)


def numbers_for(model: ir.Model, size: int = 1, seed: int = 7) -> Feeds:
    """Random inputs of a graph that `alone` made; dimensions without a number get `size`."""
    rng, op = np.random.default_rng(seed), next(iter(model.graph)).op_type
    feeds: Feeds = {}
    for value in model.graph.inputs:
        name = value.name or ""
        array = rng.standard_normal([dim if isinstance(dim, int) else size for dim in value.shape or ()])
        if name in _POSITIVE.get(op, ()):
            array = np.abs(array) + 0.5
        if op in _POOLS:
            array = array + 3  # a border that counts shows
        feeds[name] = _halves(array)
    return feeds


def _activation(name: str, value: ir.Value) -> ir.Value | None:
    if value.shape is None or value.dtype not in (_FLOAT, None):
        return None
    return ir.Value(name=name, type=ir.TensorType(_FLOAT), shape=ir.Shape(list(value.shape)))


def _constant(name: str, weight: Weight) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(weight.dtype), shape=ir.Shape(weight.dims), const_value=weight)


def _numbers(held: Weight, rng: np.random.Generator) -> Weight:
    """A dry weight with numbers: gains around 1, matrices and kernels that keep the size of what they multiply."""
    if not isinstance(held, DryWeight):
        return held
    if len(held.dims) == 1:
        array = rng.uniform(0.5, 1.5, held.dims)
    else:
        array = rng.standard_normal(held.dims) / math.sqrt(math.prod(held.dims[1:]))
    return from_array(held.name, _halves(array).astype(held.dtype.numpy()))


def _halves(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16).astype(np.float32)
