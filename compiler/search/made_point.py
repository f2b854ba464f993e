"""One point of a search made: its plan checked, compiled, measured; what fails is told, not raised."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..diagnostics.diagnostic import EdgecError
from ..driver import (
    BrokenRequirement,
    CompileOptions,
    CompileResult,
    check_plan,
    compile_plan,
    estimate_plan,
)
from ..plan.plan import Plan
from .figures import estimated_figures, finished_figures
from .point import Point, Values


def defines_of(fixed: Sequence[str], values: Values) -> list[str]:
    """The definitions of a point, as behind `-D`."""
    return [*fixed, *(f"{name}={value}" for name, value in values.items())]


def checked_point(path: Path, fixed: Sequence[str], values: Values) -> tuple[Plan | None, Point]:
    """The plan of a point as `edgec check` finds it, and the point, with its first error where it has one."""
    plan, diagnostics, sources = check_plan(path, defines_of(fixed, values))
    errors = [one for one in diagnostics if one.severity == "error"]
    error = errors[0] if errors else None
    return plan, Point(values, error=error, exit_code=1 if errors else 0, sources=sources if errors else {})


def made_point(plan: Plan, values: Values, bundle: Path, keep: bool, options: CompileOptions) -> Point:
    """The point compiled into `bundle`, which is removed again unless it is to be kept."""
    started = time.perf_counter()
    made: CompileResult | EdgecError
    try:
        made = compile_plan(plan, bundle, options)
    except EdgecError as failed:
        made = failed
    return replace(point_of(plan, values, made, keep), seconds=time.perf_counter() - started)


def point_of(plan: Plan, values: Values, made: CompileResult | EdgecError, keep: bool) -> Point:
    """What a compile came to as a point: figures of the bundle, the lines it misses, or why there is none."""
    missed = tuple(one.message for one in made.diagnostics) if isinstance(made, EdgecError) else ()
    if isinstance(made, BrokenRequirement):
        made = made.result
    if isinstance(made, EdgecError):
        if {one.code for one in made.diagnostics} == {"E0950"}:  # by the estimate: nothing was made
            return Point(values, estimated_figures(plan, estimate_plan(plan)), missed)
        error, sources = made.diagnostics[0], made.sources or plan.sources
        return Point(values, error=error, exit_code=made.exit_code, sources=sources)
    figures = finished_figures(plan, made, made.bundle)
    if not keep:
        shutil.rmtree(made.bundle, ignore_errors=True)
    return Point(values, figures, missed)
