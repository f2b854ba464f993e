"""Questions about a graph that more than one stage asks."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable

import onnx_ir as ir

from .bodies import reads

_NO_TENSORS = (ir.SequenceType, ir.OptionalType)


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


def is_tensor_of(value: ir.Value, dtype: ir.DataType) -> bool:
    """Whether `value` is a tensor of that type; a sequence of such tensors, whose `dtype` is theirs, is none."""
    return value.dtype == dtype and not isinstance(value.type, _NO_TENSORS)


def with_sequences(graph: ir.Graph, names: Collection[str]) -> set[str]:
    """`names` of nodes, and those of all that make or read a sequence with one of them: it cannot leave its part."""
    found, waiting = set(names), [node for node in graph if node.name in names]
    while waiting:
        node = waiting.pop()
        values = [value for value in (*reads(node), *node.outputs) if isinstance(value.type, _NO_TENSORS)]
        beside = [value.producer() for value in values] + [use.node for value in values for use in value.uses()]
        for other in beside:
            if other is not None and other.graph is graph and other.name not in found:
                found.add(other.name or "")
                waiting.append(other)
    return found
