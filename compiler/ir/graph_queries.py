"""Questions about a graph that more than one stage asks."""

from __future__ import annotations

from collections.abc import Container, Iterable

import onnx_ir as ir

from .bodies import reads


def constant_nodes(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """Those of `nodes`, in topological order, that depend on constants alone: a weight's DequantizeLinear, a Constant.

    Nothing is computed or read; the time is linear in the nodes.
    """
    found: set[ir.Node] = set()
    for node in nodes:
        if all(is_constant(value, found) for value in reads(node)):
            found.add(node)
    return found


def is_constant(value: ir.Value, constant: Container[ir.Node | None]) -> bool:
    """Whether `value` is an initializer or made by one of the nodes `constant`."""
    return value.const_value is not None or value.producer() in constant
