"""Steps backwards through a graph from a value to what makes it, past what only copies, casts or shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NoReturn

import onnx_ir as ir

from ....ir.module import constant
from ....ir.weights import numbers

_MOVES = ("Cast", "Identity")
_MOST_STEPS = 64  # of a walk through what shapes and moves a value


class Declined(Exception):
    """The graph is not what is looked for; the text says what is otherwise, for people."""


def decline(reason: str, node: ir.Node | None = None) -> NoReturn:
    """Raise `Declined`, naming `node`."""
    raise Declined(f"{reason} (`{node.name}`)" if node is not None else reason)


def base(value: ir.Value | None) -> ir.Value:
    """`value` behind casts between float types, copies and a Concat of one."""
    while value is not None and (node := value.producer()) is not None and _copies(node):
        value = node.inputs[0]
    if value is None:
        decline("an op lacks an input")
    return value


def _copies(node: ir.Node) -> bool:
    return node.op_type in _MOVES or (node.op_type == "Concat" and len(node.inputs) == 1)


def maker(value: ir.Value | None, *op_types: str, wanted: str = "") -> ir.Node:
    """The node that makes `value`, casts aside; declined where it is none of `op_types`, which are `wanted`."""
    at = base(value)
    node = at.producer()
    if node is None or (op_types and node.op_type not in op_types):
        wanted = wanted or " or ".join(op_types)
        if node is None:
            decline(f"the input or constant `{at.name}` where a decoder has {wanted}")
        decline(f"a {node.op_type} where a decoder has {wanted}", node)
    return node


def scalar(value: ir.Value | None) -> float | None:
    """The number of a constant of one element."""
    held = constant(value)
    return float(numbers(held).reshape(-1)[0]) if held is not None and held.size == 1 else None


def split(node: ir.Node, which: Callable[[ir.Value], bool]) -> tuple[ir.Value, ir.Value] | None:
    """(the first input that `which` holds of, the other) of a node with two inputs."""
    a, b = base(node.inputs[0]), base(node.inputs[1])
    if which(a):
        return a, b
    return (b, a) if which(b) else None


def through(value: ir.Value | None, op_types: Iterable[str]) -> tuple[ir.Value, float]:
    """`value` behind ops that shape it, and the product of the constant scalars it is multiplied by on the way."""
    allowed, factor, at = frozenset(op_types), 1.0, base(value)
    for _ in range(_MOST_STEPS):
        node = at.producer()
        if node is None:
            break
        if node.op_type in ("Mul", "Div") and (number := scalar(node.inputs[1])) is not None:
            factor *= number if node.op_type == "Mul" else 1 / number
            at = base(node.inputs[0])
        elif node.op_type == "Mul" and (number := scalar(node.inputs[0])) is not None:
            factor, at = factor * number, base(node.inputs[1])
        elif node.op_type in allowed:
            at = base(node.inputs[0])
        else:
            break
    return at, factor


def made_by(value: ir.Value | None, op_type: str) -> bool:
    """Whether an op of `op_type` makes `value`."""
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == op_type
