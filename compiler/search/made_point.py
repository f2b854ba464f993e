"""One point of a search made: its plan checked, compiled, measured; what fails is told, not raised."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..diagnostics.diagnostic import Diagnostic, EdgecError
from ..driver import BrokenRequirement, CompileOptions, check_plan, compile_plan, estimate_plan
from ..plan.plan import Plan
from .figures import estimated_figures, finished_figures
from .point import Figures, Point, Values

Progress = Callable[[str], None]


def defines_of(fixed: Sequence[str], values: Values) -> list[str]:
    """The definitions of a point, as behind `-D`."""
    return [*fixed, *(f"{name}={value}" for name, value in values.items())]


def checked_point(path: Path, fixed: Sequence[str], values: Values) -> tuple[Plan | None, Point]:
    """The plan of a point as `edgec check` finds it, and the point, with its first error where it has one."""
    plan, diagnostics, _ = check_plan(path, defines_of(fixed, values))
    errors = [one for one in diagnostics if one.severity == "error"]
    return plan, Point(values, error=errors[0] if errors else None, exit_code=1 if errors else 0)


def made_point(plan: Plan, values: Values, bundle: Path, keep: bool, progress: Progress = lambda _text: None) -> Point:
    """The point compiled into `bundle`, which is removed again unless it is to be kept."""
    started = time.perf_counter()
    missed: tuple[str, ...] = ()
    error: Diagnostic | None = None
    code, figures, left = 0, Figures(), bundle
    try:
        result = compile_plan(plan, bundle, CompileOptions(progress=progress))
        figures = finished_figures(plan, result, result.bundle)
    except BrokenRequirement as broken:
        missed = tuple(one.message for one in broken.diagnostics)
        left = broken.result.bundle
        figures = finished_figures(plan, broken.result, left)
    except EdgecError as failed:
        if {one.code for one in failed.diagnostics} == {"E0950"}:  # by the estimate: nothing was made
            missed = tuple(one.message for one in failed.diagnostics)
            figures = estimated_figures(plan, estimate_plan(plan))
        else:
            error, code = failed.diagnostics[0], failed.exit_code
    if not keep:
        shutil.rmtree(left, ignore_errors=True)
    return Point(values, figures, missed, error, code, time.perf_counter() - started)
