"""GELU and SiLU in primitive ops: found from their Erf, Tanh or Sigmoid, and told by the numbers that they make.

    Gelu                      x / 2 (1 + erf(x / sqrt 2))
    Gelu<approximate = tanh>  x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
    Swish                     x sigmoid(x)

Exporters write the factors in any order, with powers or products. What lies between x and the result is computed over a
grid of numbers and compared with each of the three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ...compiler.sources.onnx.decoder.walk import base, decline, scalar, through

ANCHORS = ("Erf", "Tanh", "Sigmoid")
_MOST_BEHIND, _MOST_NODES = 4, 16
_CLOSE = 2e-6  # of numbers up to 8, in float64 over constants that were rounded to float32
_GRID = np.linspace(-8, 8, 257)

_erf = np.vectorize(math.erf)
_OPS: Mapping[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Erf": _erf,
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
_KNOWN: Mapping[str, tuple[str, dict[str, Any], np.ndarray]] = {
    "Erf": ("Gelu", {}, _GRID / 2 * (1 + _erf(_GRID / math.sqrt(2)))),
    "Tanh": (
        "Gelu",
        {"approximate": "tanh"},
        _GRID / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (_GRID + 0.044715 * _GRID**3))),
    ),
    "Sigmoid": ("Swish", {}, _GRID / (1 + np.exp(-_GRID))),
}


def raised(anchor: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """(value, op that makes it) for the activation that `anchor` belongs to; None where its result is no factor.

    `Declined` with the reason where it is one, and what is computed is another function.
    """
    op_type, attributes, expected = _KNOWN[anchor.op_type]
    found = _products(anchor)
    if not found:
        return None
    for value, x in found[::-1]:
        nodes: list[ir.Node] = []
        made = _compute(value, x, nodes)
        if made is None:
            continue
        inner = {one for node in nodes for one in node.outputs if one is not value}
        if any(use.node not in nodes for one in inner for use in one.uses()) or any(v.is_graph_output() for v in inner):
            decline("a value inside of the activation has other readers", anchor)
        if np.abs(made - expected).max() <= _CLOSE:
            return value, ir.node(op_type, [x], attributes)
    decline(f"the product with its {anchor.op_type} is not {'SiLU' if op_type == 'Swish' else 'GELU'}", anchor)


def _products(anchor: ir.Node) -> list[tuple[ir.Value, ir.Value]]:
    """(product, the value that is a factor of it) behind `anchor`, nearest first."""
    at, x, found = anchor.outputs[0], None, []
    for _ in range(_MOST_BEHIND):
        uses = tuple(at.uses())
        if len(uses) != 1 or at.is_graph_output():
            if x is None and at is not anchor.outputs[0]:
                decline("a value inside of the activation has other readers", anchor)
            break
        if (node := uses[0].node).op_type not in ("Add", "Mul", "Div"):
            break
        other = next((v for v in node.inputs if v is not at), None)
        if scalar(other) is None:
            if node.op_type != "Mul" or other is None or x is not None:
                break
            x = through(other, ())[0]
        at = node.outputs[0]
        if x is not None:
            found.append((at, x))
    return found


def _compute(value: ir.Value, x: ir.Value, nodes: list[ir.Node]) -> np.ndarray | None:
    """`value` over the grid in the place of `x`; None where something else is read. Fills `nodes`."""
    value = base(value)
    if value is base(x):
        return _GRID
    if (number := scalar(value)) is not None:
        return np.full_like(_GRID, number)
    node = value.producer()
    if node is None or node.op_type not in _OPS or len(nodes) >= _MOST_NODES:
        return None
    if node not in nodes:
        nodes.append(node)
    operands = [_compute(one, x, nodes) for one in node.inputs if one is not None]
    if any(one is None for one in operands):
        return None
    with np.errstate(all="ignore"):
        return _OPS[node.op_type](*operands)
