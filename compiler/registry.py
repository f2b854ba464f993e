"""Installed passes and targets: what the entry points `edgec.passes` and `edgec.targets` lead to.

A plug-in is imported when its name is asked for. One that cannot be imported, or is not what it claims to be, is an
error for who names it and a line in `broken_plugins()` for who lists; it never stops the others. edgec's own
names cannot be taken: installing a plug-in changes no plan.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, NoReturn

from .diagnostics.diagnostic import Diagnostic, PlanError
from .diagnostics.nearest import nearest
from .emit.target import Target
from .pipeline.pass_interface import Pass

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "broken_plugins",
    "find_pass",
    "find_target",
    "nearest",
    "pass_fault",
    "pass_names",
    "passes",
    "target_names",
    "targets",
]

_OWN = "edgec."  # the packages of this distribution


def pass_names() -> list[str]:
    """Names of the installed passes. None of them is imported."""
    return list(_entries("edgec.passes"))


def target_names() -> list[str]:
    """Names of the installed targets. None of them is imported."""
    return list(_entries("edgec.targets"))


def find_pass(name: str) -> type[Pass]:
    """The pass class installed as `name`; KeyError without one, PlanError when its plug-in is broken."""
    return _load("edgec.passes", name)


def find_target(name: str) -> type[Target]:
    """The target class installed as `name`; KeyError without one, PlanError when its plug-in is broken."""
    return _load("edgec.targets", name)


def passes() -> dict[str, type[Pass]]:
    """Every installed pass that works, by name."""
    return _working("edgec.passes")


def targets() -> dict[str, type[Target]]:
    """Every installed target that works, by name."""
    return _working("edgec.targets")


def broken_plugins() -> list[Diagnostic]:
    """What is wrong with the plug-ins that `passes()` and `targets()` leave out."""
    found = []
    for group in ("edgec.passes", "edgec.targets"):
        for name in _entries(group):
            try:
                _load(group, name)
            except PlanError as error:
                found += error.diagnostics
    return found


def pass_fault(cls: object) -> str | None:
    """Why `cls` cannot serve as a pass, None if it can."""
    if not (isinstance(cls, type) and issubclass(cls, Pass)):
        return "it is not a subclass of `Pass`"
    if not isinstance(getattr(cls, "name", None), str) or not cls.name.isidentifier():
        return f"`{cls.__name__}.name` is not a plain word"
    if not dataclasses.is_dataclass(cls):
        return f"`{cls.__name__}` is not a dataclass"
    if cls.run is Pass.run:
        return f"`{cls.__name__}` does not define `run`"
    return None


def _target_fault(cls: object) -> str | None:
    if not (isinstance(cls, type) and issubclass(cls, Target)):
        return "it is not a subclass of `Target`"
    missing = [name for name in ("name", "Options", "devices") if not hasattr(cls, name)]
    return f"`{cls.__name__}` lacks `{missing[0]}`" if missing else None


_FAULTS: dict[str, Callable[[object], str | None]] = {"edgec.passes": pass_fault, "edgec.targets": _target_fault}


@functools.cache
def _entries(group: str) -> dict[str, list[EntryPoint]]:
    """Name -> the entry points of that name, edgec's own alone where there is one."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, []).append(entry)
    own = {name: [e for e in entries if e.value.startswith(_OWN)][:1] for name, entries in found.items()}
    return {name: own[name] or _distinct(found[name]) for name in sorted(found)}


def _distinct(entries: Iterable[EntryPoint]) -> list[EntryPoint]:
    """An editable install may list a distribution twice."""
    return list({entry.value: entry for entry in entries}.values())


@functools.cache
def _load(group: str, name: str) -> Any:
    kind = {"edgec.passes": "pass", "edgec.targets": "target"}[group]
    entries = _entries(group)[name]
    if len(entries) > 1:
        places = " and ".join(f"`{entry.value}`" for entry in entries)
        _broken(kind, name, f"two plug-ins bring it: {places}", "uninstall one of them")
    entry = entries[0]
    try:
        cls = entry.load()
    except Exception as error:  # whatever a third party's module raises while it is imported
        _broken(kind, name, f"importing `{entry.value}` raised {type(error).__name__}: {error}", _whose(entry))
    fault = _FAULTS[group](cls)
    if fault is None and cls.name != name:
        fault = f"`{entry.value}` calls itself `{cls.name}`"
    if fault is not None:
        _broken(kind, name, fault, _whose(entry))
    return cls


def _broken(kind: str, name: str, why: str, help: str | None) -> NoReturn:
    raise PlanError(Diagnostic("E0118", f"the {kind} `{name}` is installed but broken: {why}", help=help))


def _whose(entry: EntryPoint) -> str | None:
    return f"it comes with the package `{entry.dist.name}`" if entry.dist else None


def _working(group: str) -> dict[str, Any]:
    working = {}
    for name in _entries(group):
        try:
            working[name] = _load(group, name)
        except PlanError:
            continue  # told by broken_plugins()
    return working
