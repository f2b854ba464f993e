"""`edgec sweep`: every combination of values, one table. What two points share is made once: the cache has it.

-D lists -> points -> all checked, before any work -> compiled one after the other -> figures, Pareto front
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics.progress import Passing
from ..driver import CompileOptions, compile_plans, sweep_axes
from ..files.cache import uses
from ..files.scratch import scratch_folder
from .front import front
from .made_point import checked_point, made_point, point_of
from .point import MOST, Point, Values, all_points
from .table import summary

if TYPE_CHECKING:
    from ..plan.plan import Plan

Progress = Callable[[str], None]


@dataclass(frozen=True, repr=False)
class Sweep:
    """Every point in the order it was made. `shared`: kind of cache entry -> (found there, made now)."""

    path: Path
    axes: dict[str, tuple[str, ...]]
    fixed: tuple[str, ...]
    points: tuple[Point, ...]
    shared: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def front(self) -> list[Point]:
        """The points of the Pareto front."""
        return [self.points[at] for at in front(self.points)]

    @property
    def failed(self) -> list[Point]:
        """The points without a bundle."""
        return [point for point in self.points if point.error is not None]

    def entry(self) -> dict[str, Any]:
        """As JSON has it."""
        best = set(front(self.points))
        return {
            "ok": not self.failed,
            "plan": str(self.path),
            "axes": {name: list(values) for name, values in self.axes.items()},
            "fixed": list(self.fixed),
            "points": [{**point.entry(), "front": at in best} for at, point in enumerate(self.points)],
            "cache": {kind: {"found": found, "made": made} for kind, (found, made) in self.shared.items()},
        }

    def _repr_html_(self) -> str:
        from .page import page

        return page(self)

    def __repr__(self) -> str:
        return f"<sweep of {self.path}: {len(self.points)} points, {len(self.failed)} failed, {len(self.front)} best>"


def sweep(
    path: Path,
    defines: Sequence[str],
    options: CompileOptions,
    keep: Path | None = None,
    most: int = MOST,
) -> Sweep:
    """Make every point of the lists among `defines`.

    `keep`: a folder for the bundles, one for each point; without it they are measured and removed. A point that fails
    ends the sweep, before any work where its check tells; with `options.keep_going` the others are made. With
    `options.actions` or `options.on` all points are one graph of actions, here or on a scheduler elsewhere.
    """
    progress, keep_going = options.progress, options.keep_going
    axes, fixed = sweep_axes(path, defines)
    chosen = list(all_points(axes, most))
    before = uses()
    checked: list[tuple[Plan | None, Point]] = []
    for number, values in enumerate(chosen, 1):
        progress(Passing(f"checking point {number} of {len(chosen)}: {Point(values).name}"))
        checked.append(checked_point(path, fixed, values))
    wrong = any(point.error is not None for _, point in checked)
    if wrong and not keep_going:
        points = [point if point.error is not None else Point(point.values, run=False) for _, point in checked]
    elif options.actions or options.on is not None:
        points = _as_graph(checked, keep, options)
    else:
        points = _made(checked, keep, keep_going, progress)
    return Sweep(path, axes, tuple(fixed), tuple(points), _since(before))


def _made(
    checked: Sequence[tuple[Plan | None, Point]], keep: Path | None, keep_going: bool, progress: Progress
) -> list[Point]:
    points: list[Point] = []
    stopped = False
    with scratch_folder("sweep") as work:
        for number, (plan, point) in enumerate(checked, 1):
            if plan is None or stopped:
                points.append(point if plan is None else Point(point.values, run=False))
                continue
            progress(Passing(f"point {number} of {len(checked)}: {point.name}"))
            bundle = (keep or work) / folder_name(number, point.values)
            quiet = CompileOptions(progress=lambda text: progress(Passing(text)))
            made = made_point(plan, point.values, bundle, keep is not None, quiet)
            points.append(made)
            progress(f"point {number} of {len(checked)}: {summary(made)}")
            stopped = points[-1].error is not None and not keep_going
    return points


def _as_graph(checked: Sequence[tuple[Plan | None, Point]], keep: Path | None, options: CompileOptions) -> list[Point]:
    """All points as one graph: what they share is an action of several, and runs once."""
    with scratch_folder("sweep") as work:
        folders = [(keep or work) / folder_name(number, point.values) for number, (_, point) in enumerate(checked, 1)]
        requests = [(plan, folder) for (plan, _), folder in zip(checked, folders, strict=True) if plan is not None]
        made = iter(compile_plans(requests, options))
        return [
            point if plan is None else point_of(plan, point.values, next(made), keep is not None)
            for plan, point in checked
        ]


def folder_name(number: int, values: Values) -> str:
    """A folder for the bundle of a point: its number and values, without what file systems or shells mind."""
    pieces = [f"{number:03}", *itertools.chain.from_iterable(values.items())]
    return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in piece) for piece in pieces)[:120]


def _since(before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    found = {}
    for kind, (hits, made) in uses().items():
        old_hits, old_made = before.get(kind, (0, 0))
        if (hits, made) != (old_hits, old_made):
            found[kind] = (hits - old_hits, made - old_made)
    return found
