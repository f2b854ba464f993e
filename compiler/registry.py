"""Installed plug-ins: what the entry points of `edgec.sources`, `edgec.passes`, `edgec.caches` (the pass that makes a
type of K/V cache), `edgec.targets` and `edgec.measures` (what `require` can name) lead to.

Each group is a door (`diagnostics/plugin_door.py`); here is what may pass through which.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from .diagnostics import plugin_door
from .diagnostics.diagnostic import Diagnostic, fail
from .diagnostics.nearest import nearest_help
from .diagnostics.plugin_door import Door
from .diagnostics.plugin_pages import broken_pages, page_files
from .emit.capabilities import Capabilities
from .emit.target import Target
from .ir.ops.find_op import broken_ops, find_op
from .pipeline.pass_interface import Pass
from .pipeline.step import Step
from .plan.measure import Measure
from .sources.source import Source

if TYPE_CHECKING:
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
    return _SOURCES.names()


def pass_names() -> list[str]:
    """Names of the installed passes. None of them is imported."""
    return _PASSES.names()


def target_names() -> list[str]:
    """Names of the installed targets. None of them is imported."""
    return _TARGETS.names()


def find_source(word: str) -> type[Source]:
    """The source class installed as `word`; PlanError when there is none, or its plug-in is broken."""
    if word not in _SOURCES.names():
        help = nearest_help(word, source_names(), "source") or f"sources are: {', '.join(source_names())}"
        fail("E0114", f"unknown source `{word}`", help=help)
    return _SOURCES.load(word)


def find_pass(name: str) -> type[Pass]:
    """The pass class installed as `name`; KeyError without one, PlanError when its plug-in is broken."""
    return _PASSES.load(name)


def find_target(name: str) -> type[Target]:
    """The target class installed as `name`; KeyError without one, PlanError when its plug-in is broken."""
    return _TARGETS.load(name)


def sources() -> dict[str, type[Source]]:
    """Every installed source that works, by its word."""
    return _SOURCES.working()


def passes() -> dict[str, type[Pass]]:
    """Every installed pass that works, by name."""
    return _PASSES.working()


def targets() -> dict[str, type[Target]]:
    """Every installed target that works, by name."""
    return _TARGETS.working()


def measures() -> dict[str, type[Measure]]:
    """Every installed measure that works, by name: what the lines of `require` can be about."""
    return _MEASURES.working()


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
    return _CACHES.names()


def cache_steps(kind: str, at: Span) -> list[Step]:
    """What a deploy line's `kv` adds behind its pipeline's work on weights and activations; nothing for `fp16`.

    KeyError for a type that no installed pass makes.
    """
    if kind == "fp16":
        return []
    made = _CACHES.load(kind)()
    return [Step(made.name, made, None, (), at)]


def broken_plugins() -> list[Diagnostic]:
    """What is wrong with the plug-ins that `sources()`, `passes()` and `targets()` leave out, with ops and pages."""
    doors = (_SOURCES, _PASSES, _CACHES, _TARGETS, _MEASURES)
    return [*broken_ops(), *broken_pages(), *(found for door in doors for found in door.broken())]


def forget() -> None:
    """Look for installed plug-ins anew; what was found before is kept for the life of the process otherwise."""
    plugin_door.forget()
    page_files.cache_clear()
    find_op.cache_clear()


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


_SOURCES = Door("edgec.sources", "source", _source_fault, "word")
_PASSES = Door("edgec.passes", "pass", pass_fault)
_CACHES = Door("edgec.caches", "pass for a cache", pass_fault, None)
_TARGETS = Door("edgec.targets", "target", _target_fault)
_MEASURES = Door("edgec.measures", "measure", _measure_fault)
