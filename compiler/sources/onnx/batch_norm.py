"""Fold BatchNormalization of inference into the convolution or product in front of it, else into a Mul and an Add.

y[N,C,*] = (x - mean[C]) * s[C] + b[C],   s = scale / sqrt(variance + epsilon)

x = Conv(v, W[C,I,*], c)    ->    y = Conv(v, W * s, (c - mean) * s + b)         Gemm likewise, W [C,K] or [K,C]
else                        ->    y = x * s[C,1,..] + (b - mean * s)[C,1,..]
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...ir.fold_into_weights import scale_columns, scale_rows
from ...ir.module import Module, constant, initializer
from ...ir.weights import Weight, from_array, numbers

_FOLDED = ("Conv", "Gemm")


def fold_batch_norm(graph: ir.Graph, node: ir.Node) -> bool:
    """Whether `node`, a BatchNormalization, was folded; one that trains or whose numbers are computed stays."""
    held = [constant(value) for value in node.inputs[1:5]]
    x, made = node.inputs[0], node.outputs[0]
    trains = node.attributes.get_int("training_mode", 0) or any(one.uses() for one in node.outputs[1:])
    if trains or x is None or x.shape is None or len(x.shape) < 2 or len(held) < 4 or any(one is None for one in held):
        return False
    scale, bias, mean, variance = (np.asarray(numbers(one), np.float64) for one in held if one is not None)
    s = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    shift = bias - mean * s
    if not (np.isfinite(s).all() and np.isfinite(shift).all()):
        return False
    before = x.producer()
    if before is not None and before.op_type in _FOLDED and Module.readers(x) == 1 and _fold(graph, before, s, shift):
        _read_instead(made, x)
        graph.remove(node, safe=True)
        return True
    return _as_ops(graph, node, x, s, shift)


def _fold(graph: ir.Graph, before: ir.Node, s: np.ndarray, shift: np.ndarray) -> bool:
    weight = constant(before.inputs[1])
    given = before.inputs[2] if len(before.inputs) > 2 else None
    bias = constant(given) if given is not None else None
    plain = all(before.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    if weight is None or not weight.dtype.is_floating_point() or not plain or (given is not None and bias is None):
        return False
    columns = before.op_type == "Gemm" and not before.attributes.get_int("transB", 0)
    channels = weight.dims[1] if columns else weight.dims[0]
    old = np.zeros(channels) if bias is None else np.broadcast_to(np.asarray(numbers(bias), np.float64), (channels,))
    if channels != len(s):
        return False
    scaled = (scale_columns if columns else scale_rows)(weight, s, "batch norm folded")
    name = before.name or before.op_type
    dtype = weight.dtype.numpy()
    before.replace_input_with(1, _new(graph, f"{name}.folded_weight", scaled))
    made = _new(graph, f"{name}.folded_bias", from_array("", (old * s + shift).astype(dtype)))
    if len(before.inputs) < 3:
        before.resize_inputs(3)
    before.replace_input_with(2, made)
    return True


def _as_ops(graph: ir.Graph, node: ir.Node, x: ir.Value, s: np.ndarray, shift: np.ndarray) -> bool:
    dtype, made, name = (x.dtype or ir.DataType.FLOAT).numpy(), node.outputs[0], node.name or "batch_norm"
    shape = (-1, *(1,) * (len(x.shape or ()) - 2))
    factors = [from_array("", array.reshape(shape).astype(dtype)) for array in (s, shift)]
    by, plus = (_new(graph, f"{name}.{word}", one) for word, one in zip(("factor", "shift"), factors, strict=True))
    product = ir.node("Mul", [x, by], name=f"{name}.mul")
    total = ir.node("Add", [product.outputs[0], plus], name=name)
    for value in (product.outputs[0], total.outputs[0]):
        value.type, value.shape = made.type, made.shape
    product.outputs[0].name = f"{made.name}.scaled"
    graph.insert_before(node, [product, total])
    _read_instead(made, total.outputs[0])
    graph.remove(node, safe=True)
    return True


def _read_instead(old: ir.Value, new: ir.Value) -> None:
    """Readers of `old` read `new`, which takes its name: an output of the graph keeps it."""
    new.name, old.name = old.name, None
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _new(graph: ir.Graph, name: str, weight: Weight) -> ir.Value:
    while name in graph.initializers:
        name += "_"
    return initializer(graph, name, weight)
