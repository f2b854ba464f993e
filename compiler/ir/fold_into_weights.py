"""Fold a linear map of activations into the weights on both sides of them, lazily and without a new op.

    x' = x * s:   norm gain g' = g * s          W' = W / s along its inputs      (a vector s, one number per channel)
    x' = x P:     producers W' = P^T W          readers W' = W P                 (P an order, no arithmetic)
    x' = x R:     producers W' = R^T W          readers W' = W R                 (R orthogonal [H, H], stored [N, K])

The producer's bias is transformed like its rows. A shared weight is copied first.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .annotations import Transform
from .linears import Linear
from .module import Module, constant, initializer
from .weights import Weight, derive, from_array, numbers


def scale_columns(weight: Weight, factors: np.ndarray, how: str) -> Weight:
    """W[:, k] * factors[k]."""
    f = factors.astype(np.float32)

    def rows(start: int, stop: int) -> np.ndarray:
        return _like(weight, weight.rows(start, stop) * f)

    return derive(weight.name, weight.dtype, weight.dims, rows, weight, Transform.SCALE, how)


def scale_rows(weight: Weight, factors: np.ndarray, how: str) -> Weight:
    """W[n] * factors[n]; also of vectors (gains, biases)."""
    f = factors.astype(np.float32).reshape(-1, *(1,) * (len(weight.dims) - 1))

    def rows(start: int, stop: int) -> np.ndarray:
        return _like(weight, weight.rows(start, stop) * f[start:stop])

    return derive(weight.name, weight.dtype, weight.dims, rows, weight, Transform.SCALE, how)


def rotate_columns(weight: Weight, rotation: np.ndarray, how: str) -> Weight:
    """W R, summed in float64. R [K, K], or [D, D] for each run of D inputs (a head)."""
    r = rotation.astype(np.float64)

    def rows(start: int, stop: int) -> np.ndarray:
        w = weight.rows(start, stop).astype(np.float64)
        return _like(weight, (w.reshape(len(w), -1, len(r)) @ r).reshape(w.shape))

    return derive(weight.name, weight.dtype, weight.dims, rows, weight, Transform.ROTATE, how)


def rotate_rows(weight: Weight, rotation: np.ndarray, how: str) -> Weight:
    """R^T W (or R^T b), R as for `rotate_columns`; a row needs all rows of its run, which are read for each block."""
    r = rotation.astype(np.float64)
    run = len(r)

    def rows(start: int, stop: int) -> np.ndarray:
        first, last = start - start % run, -(-stop // run) * run
        made = np.zeros((last - first, int(np.prod(weight.dims[1:], dtype=np.int64))), np.float64)
        for at in range(first, last, run):
            made[at - first : at - first + run] = r.T @ weight.rows(at, at + run).astype(np.float64).reshape(run, -1)
        return _like(weight, made[start - first : stop - first].reshape(stop - start, *weight.dims[1:]))

    return derive(weight.name, weight.dtype, weight.dims, rows, weight, Transform.ROTATE, how)


def permute_columns(weight: Weight, order: np.ndarray) -> Weight:
    """W[:, order]."""

    def rows(start: int, stop: int) -> np.ndarray:
        return weight.rows(start, stop)[:, order]

    return derive(weight.name, weight.dtype, weight.dims, rows, weight, Transform.PERMUTE, "columns permuted")


def permute_rows(weight: Weight, order: np.ndarray) -> Weight:
    """W[order], also of vectors; rows are read one by one."""

    def rows(start: int, stop: int) -> np.ndarray:
        made = np.empty((stop - start, *weight.dims[1:]), weight.dtype.numpy())
        for at, row in enumerate(order[start:stop].tolist()):
            made[at] = weight.rows(row, row + 1)[0]
        return made

    return derive(weight.name, weight.dtype, weight.dims, rows, weight, Transform.PERMUTE, "rows permuted")


def _like(weight: Weight, array: np.ndarray) -> np.ndarray:
    return array.astype(weight.dtype.numpy(), copy=False)


def set_weight(value: ir.Value, weight: Weight) -> None:
    """Let the initializer `value` hold `weight`, for all its readers."""
    weight.name = value.name or weight.name
    value.const_value = weight


def untie(module: Module, linear: Linear) -> Linear:
    """`linear` with an initializer of its own."""
    from .linears import as_linear

    value = linear.value
    turn = linear.node.inputs[1].producer() if linear.kind == "matmul" and linear.node.inputs[1] is not None else None
    reader = turn if turn is not None and turn.op_type == "Transpose" else linear.node
    if all(use.node is reader for use in value.uses()):
        return linear
    if linear.stored is None:
        raise ValueError(f"`{linear.name}` is quantised")
    name, held = f"{linear.name}.weight", linear.stored
    copy = derive(name, held.dtype, held.dims, held.rows, held, Transform.UNTIE, "untied")
    made = initializer(module.main.graph, name, copy)
    for at, given in enumerate(reader.inputs):
        if given is value:
            reader.replace_input_with(at, made)
    found = as_linear(linear.node)
    if found is None:
        raise ValueError(f"`{linear.name}` is no linear any more")
    return found


def own_gain(module: Module, norm: ir.Node) -> ir.Value:
    """The gain of an RMSNormalization, a constant only it reads."""
    value = norm.inputs[1]
    held = constant(value)
    if value is None or held is None:
        raise ValueError(f"`{norm.name}` has no constant gain")
    if value.const_value is not None and len(value.uses()) == 1:
        return value
    made = initializer(module.main.graph, f"{norm.name}.weight", from_array(f"{norm.name}.weight", numbers(held)))
    norm.replace_input_with(1, made)
    return made


def bias_of(linear: Linear) -> ir.Value | None:
    """The constant that the Add right behind a linear adds, None without one."""
    output = linear.node.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add":
        return None
    other = uses[0].node.inputs[1 - uses[0].idx]
    return other if other is not None and constant(other) is not None else None


def behind_bias(linear: Linear) -> ir.Value:
    """What a linear gives, its bias included."""
    bias = bias_of(linear)
    output = linear.node.outputs[0]
    return output if bias is None else next(iter(output.uses())).node.outputs[0]
