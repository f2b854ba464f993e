"""Installed plug-ins: what the entry points of `edgec.sources`, `edgec.passes`, `edgec.caches` (the pass that makes a
type of K/V cache), `edgec.targets` and `edgec.measures` (what `require` can name) lead to.

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

from .diagnostics.diagnostic import Diagnostic, PlanError, fail
from .diagnostics.nearest import nearest_help
from .diagnostics.plugin_pages import broken_pages, page_files
from .emit.capabilities import Capabilities
from .emit.target import Target
from .ir.ops.find_op import broken_ops
from .ir.ops.find_op import forget as forget_ops
from .pipeline.pass_interface import Pass
from .pipeline.step import Step
from .plan.measure import Measure
from .sources.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from .diagnostics.diagnostic import Span

__all__ = [
    "broken_plugins",
    "cache_steps",
    "cache_types",
    "capabilities",
    "find_pass",
    "find_source",
    "find_target",
    "forget",
    "measures",
    "part_target",
    "pass_fault",
    "pass_names",
    "passes",
    "source_names",
    "sources",
    "target_names",
    "targets",
]

_OWN = "edgec."  # the packages of this distribution


def source_names() -> list[str]:
    """Words of the installed sources. None of them is imported."""
    return list(_entries("edgec.sources"))


def pass_names() -> list[str]:
    """Names of the installed passes. None of them is imported."""
    return list(_entries("edgec.passes"))


def target_names() -> list[str]:
    """Names of the installed targets. None of them is imported."""
    return list(_entries("edgec.targets"))


def find_source(word: str) -> type[Source]:
    """The source class installed as `word`; PlanError when there is none, or its plug-in is broken."""
    if word not in _entries("edgec.sources"):
        help = nearest_help(word, source_names(), "source") or f"sources are: {', '.join(source_names())}"
        fail("E0114", f"unknown source `{word}`", help=help)
    return _load("edgec.sources", word)


def find_pass(name: str) -> type[Pass]:
    """The pass class installed as `name`; KeyError without one, PlanError when its plug-in is broken."""
    return _load("edgec.passes", name)


def find_target(name: str) -> type[Target]:
    """The target class installed as `name`; KeyError without one, PlanError when its plug-in is broken."""
    return _load("edgec.targets", name)


def sources() -> dict[str, type[Source]]:
    """Every installed source that works, by its word."""
    return _working("edgec.sources")


def passes() -> dict[str, type[Pass]]:
    """Every installed pass that works, by name."""
    return _working("edgec.passes")


def targets() -> dict[str, type[Target]]:
    """Every installed target that works, by name."""
    return _working("edgec.targets")


def measures() -> dict[str, type[Measure]]:
    """Every installed measure that works, by name: what the lines of `require` can be about."""
    return _working("edgec.measures")


def capabilities() -> dict[str, Capabilities]:
    """What each installed target that works states about itself."""
    return {name: target.capabilities for name, target in targets().items()}


def part_target(deployed: str, device: str) -> type[Target]:
    """The target that emits a part on `device` of a model deployed `as deployed`; PlanError when none does.

    The deploy line's own target, else the first (edgec's before a plug-in's) that runs parts beside another's.
    """
    own = find_target(deployed)
    if device in own.capabilities.places:
        return own
    beside = [one for one in targets().values() if one.capabilities.beside and device in one.capabilities.places]
    if not beside:
        fail("E0505", f"no installed target runs parts of a model on `{device}` beside `as {deployed}`")
    return min(beside, key=lambda one: not one.__module__.startswith(_OWN))


def cache_types() -> list[str]:
    """The types of K/V caches that a deploy line can name, besides the target's own floats."""
    return list(_entries("edgec.caches"))


def cache_steps(kind: str, at: Span) -> list[Step]:
    """What a deploy line's `kv` adds behind its pipeline's work on weights and activations; nothing for `fp16`.

    KeyError for a type that no installed pass makes.
    """
    if kind == "fp16":
        return []
    made = _load("edgec.caches", kind)()
    return [Step(made.name, made, None, (), at)]


def broken_plugins() -> list[Diagnostic]:
    """What is wrong with the plug-ins that `sources()`, `passes()` and `targets()` leave out, with ops and pages."""
    found = [*broken_ops(), *broken_pages()]
    for group in _DOORS:
        for name in _entries(group):
            try:
                _load(group, name)
            except PlanError as error:
                found += error.diagnostics
    return found


def forget() -> None:
    """Look for installed plug-ins anew; what was found before is kept for the life of the process otherwise."""
    page_files.cache_clear()
    _entries.cache_clear()
    _load.cache_clear()
    forget_ops()


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
    missing = [name for name in ("name", "Options", "capabilities") if not hasattr(cls, name)]
    return f"`{cls.__name__}` lacks `{missing[0]}`" if missing else None


def _source_fault(cls: object) -> str | None:
    if not (isinstance(cls, type) and issubclass(cls, Source)):
        return "it is not a subclass of `Source`"
    missing = [name for name in ("word", "accepts", "takes") if not hasattr(cls, name)]
    missing += [name for name in ("outline", "load") if getattr(cls, name) is getattr(Source, name)]
    return f"`{cls.__name__}` lacks `{missing[0]}`" if missing else None


def _measure_fault(cls: object) -> str | None:
    if not (isinstance(cls, type) and issubclass(cls, Measure)):
        return "it is not a subclass of `Measure`"
    missing = [name for name in ("name", "of") if not hasattr(cls, name)]
    missing += ["value"] if cls.value is Measure.value else []
    return f"`{cls.__name__}` lacks `{missing[0]}`" if missing else None


@dataclasses.dataclass(frozen=True)
class _Door:
    """One group of entry points: what it brings, why a class may not pass, which attribute is its name in a plan."""

    noun: str
    fault: Callable[[object], str | None]
    named: str | None = "name"


_DOORS = {
    "edgec.sources": _Door("source", _source_fault, "word"),
    "edgec.passes": _Door("pass", pass_fault),
    "edgec.caches": _Door("pass for a cache", pass_fault, None),
    "edgec.targets": _Door("target", _target_fault),
    "edgec.measures": _Door("measure", _measure_fault),
}


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
    door = _DOORS[group]
    entries = _entries(group)[name]
    if len(entries) > 1:
        places = " and ".join(f"`{entry.value}`" for entry in entries)
        _broken(door.noun, name, f"two plug-ins bring it: {places}", "uninstall one of them")
    entry = entries[0]
    try:
        cls = entry.load()
    except Exception as error:  # whatever a third party's module raises while it is imported
        _broken(door.noun, name, f"importing `{entry.value}` raised {type(error).__name__}: {error}", _whose(entry))
    fault = door.fault(cls)
    if fault is None and door.named and getattr(cls, door.named) != name:
        fault = f"`{entry.value}` calls itself `{getattr(cls, door.named)}`"
    if fault is not None:
        _broken(door.noun, name, fault, _whose(entry))
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
            continue  # reported by broken_plugins()
    return working
