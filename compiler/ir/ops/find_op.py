"""Installed ops: what the entry points of the group `edgec.ops` lead to, imported when a graph has such an op."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ...diagnostics.diagnostic import Diagnostic
from ...diagnostics.plugin_door import Door
from ..domains import OWN_DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

    from .op_definition import OpDefinition


def op_names() -> list[str]:
    """Names of the installed ops. None of them is imported."""
    return _OPS.names()


def definition_of(node: ir.Node) -> OpDefinition | None:
    """The definition of a node of the domain `ai.edgec`; None for other nodes, and for an op nobody installed.

    PlanError E0118 when its package is broken.
    """
    return find_op(node.op_type) if node.domain == OWN_DOMAIN else None


@functools.cache
def find_op(name: str) -> OpDefinition | None:
    """The definition installed as `name`; PlanError E0118 when its package is broken."""
    return _OPS.load(name)() if name in _OPS.names() else None


def broken_ops() -> list[Diagnostic]:
    """What is wrong with the packages of installed ops."""
    return _OPS.broken()


def _fault(made: object) -> str | None:
    from .op_definition import OpDefinition

    if not (isinstance(made, type) and issubclass(made, OpDefinition)):
        return "it is not a subclass of `OpDefinition`"
    try:
        standard = {node.domain for node in made().proto.node} <= {"", "ai.onnx"}
    except ValueError as error:
        return str(error)
    return None if standard else "its body uses ops that are not ONNX's own"


_OPS = Door("edgec.ops", "op", _fault)
