"""A door: one group of entry points, through which edgec's own parts and those of plug-ins arrive alike.

A plug-in is imported when its name is asked for. One that cannot be imported, or is not what it claims to be, is an
error (E0118) for who names it and a line in `broken()` for who lists; it never stops the others. edgec's own names
cannot be taken: installing a plug-in changes no plan. What was found is kept for the life of the process (`forget`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .diagnostic import Diagnostic, PlanError
from .foreign_code import ForeignFailure, foreign_code

_OWN = "edgec."  # the packages of this distribution


@dataclass(frozen=True)
class Door:
    """What one group brings.

    group  the group of entry points: `edgec.passes`
    noun   what a message calls one: `pass`
    fault  why a class cannot serve, None if it can
    named  the attribute of the class that repeats the entry point's name; None: it may be called otherwise
    """

    group: str
    noun: str
    fault: Callable[[Any], str | None]
    named: str | None = "name"

    def names(self) -> list[str]:
        """Installed names, sorted. Nothing is imported."""
        return list(entries(self.group))

    def load(self, name: str) -> Any:
        """What is installed as `name`; KeyError without one, PlanError when its plug-in is broken."""
        return _load(self, name)

    def working(self) -> dict[str, Any]:
        """Everything installed that works, by name."""
        found = {}
        for name in self.names():
            try:
                found[name] = self.load(name)
            except PlanError:
                continue  # reported by `broken`
        return found

    def broken(self) -> list[Diagnostic]:
        """What is wrong with the plug-ins that `working` leaves out."""
        found: list[Diagnostic] = []
        for name in self.names():
            try:
                self.load(name)
            except PlanError as error:
                found += error.diagnostics
        return found


@functools.cache
def entries(group: str) -> dict[str, list[EntryPoint]]:
    """Name -> the entry points of that name, edgec's own alone where there is one."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=group):  # an editable install may list a distribution twice
        found.setdefault(entry.name, {})[entry.value] = entry
    alike = {name: list(found[name].values()) for name in sorted(found)}
    own = {name: [entry for entry in both if entry.value.startswith(_OWN)] for name, both in alike.items()}
    return {name: own[name] or both for name, both in alike.items()}


def whose(entry: EntryPoint) -> str | None:
    """Which package an entry point comes with, as a help text."""
    return f"it comes with the package `{entry.dist.name}`" if entry.dist else None


def forget() -> None:
    """Look for installed plug-ins anew."""
    entries.cache_clear()
    _load.cache_clear()


@functools.cache
def _load(door: Door, name: str) -> Any:
    found = entries(door.group)[name]
    if len(found) > 1:
        places = " and ".join(f"`{entry.value}`" for entry in found)
        raise _broken(door, name, f"two plug-ins bring it: {places}", "uninstall one of them")
    (entry,) = found
    try:
        with foreign_code():
            made = entry.load()
            called = getattr(made, door.named, name) if door.named else name
            fault = f"`{entry.value}` calls itself `{called}`" if called != name else door.fault(made)
    except ForeignFailure as error:
        raise _broken(door, name, f"importing `{entry.value}` raised {error}", whose(entry)) from error
    if fault is not None:
        raise _broken(door, name, fault, whose(entry))
    return made


def _broken(door: Door, name: str, why: str, help: str | None) -> PlanError:
    return PlanError(Diagnostic("E0118", f"the {door.noun} `{name}` is installed but broken: {why}", help=help))
