"""The rewrite itself: W' = W * s, made row by row when the weight is written."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from edgec.api import Linear, Module, Scope, Transform, Weight, as_linear, derive


def fold(module: Module, mul: ir.Node, largest: float, scope: Scope) -> bool:
    """Fold `mul` if it scales a linear's outputs; otherwise say why not."""
    for product, factor in ((mul.inputs[0], mul.inputs[1]), (mul.inputs[1], mul.inputs[0])):
        maker, scale = module.producer(product), module.constant(factor)
        linear = as_linear(maker) if maker is not None else None
        if linear is not None and linear.kind == "matmul" and scale is not None and scope.selects(linear.name):
            return _fold(module, mul, linear, scale.numpy(), largest, scope)
    return False


def _fold(module: Module, mul: ir.Node, linear: Linear, scale: np.ndarray, largest: float, scope: Scope) -> bool:
    outputs = linear.shape[0]
    if scale.shape[-1:] not in ((), (1,), (outputs,)) or scale.size not in (1, outputs):
        return scope.skip(mul, "the scale is not one constant value per output")
    if module.readers(linear.node.outputs[0]) != 1:
        return scope.skip(mul, f"`{linear.name}` has other readers")
    if linear.stored is None or len(linear.value.uses()) != 1:
        return scope.skip(mul, f"the weight of `{linear.name}` is shared")
    if np.abs(scale).max() > largest:
        return scope.skip(mul, f"a scale of {np.abs(scale).max():g} is above {largest:g}")
    linear.value.const_value = _scaled(linear.stored, scale.reshape(-1), linear.rows_are_outputs)
    module.bypass(mul, linear.node.outputs[0])
    return True


def _scaled(weight: Weight, scale: np.ndarray, rows_are_outputs: bool) -> Weight:
    def rows(start: int, stop: int) -> np.ndarray:
        by_row = scale[start:stop] if scale.size > 1 else scale
        return weight.rows(start, stop) * (by_row[:, None] if rows_are_outputs else scale)

    return derive(weight.name, weight.dtype, weight.dims, rows, weight, Transform.SCALE, "scaled")
