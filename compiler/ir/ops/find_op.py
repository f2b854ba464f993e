"""Installed ops: what the entry points of the group `edgec.ops` lead to, imported when a graph has such an op."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from ...diagnostics.diagnostic import Diagnostic, PlanError
from ..domains import OWN_DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

    from .op_definition import OpDefinition

GROUP = "edgec.ops"


def op_names() -> list[str]:
    """Names of the installed ops. None of them is imported."""
    return sorted(_entries())


def definition_of(node: ir.Node) -> OpDefinition | None:
    """The definition of a node of the domain `ai.edgec`; None for other nodes, and for an op nobody installed.

    PlanError E0118 when its package is broken.
    """
    return find_op(node.op_type) if node.domain == OWN_DOMAIN else None


@functools.cache
def find_op(name: str) -> OpDefinition | None:
    """The definition installed as `name`; PlanError E0118 when its package is broken."""
    entries = _entries().get(name, [])
    if not entries:
        return None
    if len(entries) > 1:
        places = " and ".join(f"`{entry.value}`" for entry in entries)
        raise _broken(name, f"two plug-ins bring it: {places}", "uninstall one of them")
    (entry,) = entries
    whose = f"it comes with the package `{entry.dist.name}`" if entry.dist else None
    try:
        made = entry.load()
        fault = _fault(made, name)
    except Exception as error:  # whatever a third party's module raises while it is imported
        raise _broken(name, f"importing `{entry.value}` raised {type(error).__name__}: {error}", whose) from error
    if fault is not None:
        raise _broken(name, fault, whose)
    return made()


def broken_ops() -> list[Diagnostic]:
    """What is wrong with the packages of installed ops."""
    found: list[Diagnostic] = []
    for name in op_names():
        try:
            find_op(name)
        except PlanError as error:
            found += error.diagnostics
    return found


def forget() -> None:
    """Look for installed ops anew; what was found before is kept for the life of the process otherwise."""
    _entries.cache_clear()
    find_op.cache_clear()


@functools.cache
def _entries() -> dict[str, list[EntryPoint]]:
    found: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=GROUP):  # an editable install may list a distribution twice
        found.setdefault(entry.name, {})[entry.value] = entry
    return {name: list(entries.values()) for name, entries in found.items()}


def _fault(made: object, name: str) -> str | None:
    from .op_definition import OpDefinition

    if not (isinstance(made, type) and issubclass(made, OpDefinition)):
        return "it is not a subclass of `OpDefinition`"
    if getattr(made, "name", None) != name:
        return f"`{made.__name__}` calls itself `{getattr(made, 'name', None)}`"
    try:
        standard = {node.domain for node in made().proto.node} <= {"", "ai.onnx"}
    except ValueError as error:
        return str(error)
    return None if standard else "its body uses ops that are not ONNX's own"


def _broken(name: str, why: str, help: str | None) -> PlanError:
    return PlanError(Diagnostic("E0118", f"the op `{name}` is installed but broken: {why}", help=help))
