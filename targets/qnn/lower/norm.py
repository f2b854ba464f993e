"""Normalisations over the last axis.

    RMSNormalization    y = x / sqrt(mean(x^2) + eps) * g
    LayerNormalization  y = (x - mean(x)) / sqrt(var(x) + eps) * g + b

HTP computes RMSNormalization right at rank 3 and wrong at rank 4 (16 and more rows of [1,S,heads,HD]), so every norm
runs as [1, rows, size].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ....compiler.emit.refusals import refuse
from .builder import ON_CPU, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    from .lowering import Lowering


def _norm(low: Lowering, node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    if x is None:
        raise ValueError(f"`{node.name}` lacks its input")
    shape = static_shape(x)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    if axis not in (-1, len(shape) - 1):
        refuse(
            "E0634",
            f"{{}}: {node.op_type} over more than the last axis has no lowering for HTP",
            node.name or "",
            help=ON_CPU,
        )
    rows, size = math.prod(shape[:-1]), shape[-1]
    low.use("rms_norm" if node.op_type == "RMSNormalization" else "layer_norm", node, rows=rows, size=size)
    flat = low.build.reshape(low.value(x), (1, rows, size), "rows")
    gains = [low.value(value) for value in node.inputs[1:] if value is not None]
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    made = low.build.op(node.op_type, flat, *gains, shape=(1, rows, size), step="norm", axis=-1, epsilon=epsilon)
    return low.build.reshape(made, shape, "back")


RULES = {"RMSNormalization": _norm, "LayerNormalization": _norm}
