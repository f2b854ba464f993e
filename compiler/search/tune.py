"""`edgec tune`: the values of a plan's `tune(…)` lets that meet every `require` line and make one goal best.

tune(…) lets -> estimates -> perplexity of modules on few windows, then more -> engines -> the plan that won
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from ..diagnostics.diagnostic import Diagnostic, Label, PlanError, RequirementError, fail
from ..driver import CompileOptions, check_plan, chosen_text, sweep_axes
from ..plan.measure import subject_of
from ..plan.plan import Plan
from ..registry import measures
from .candidate import Candidate
from .explore import explore, optimiser
from .finalists import compile_best
from .front import front
from .look import Looker
from .made_point import defines_of
from .point import Point, Values

MINUTES = 10.0
TRIALS = 400  # proposals of a large space
_SHARE = 0.6  # of the time, for what needs no engine
_RUNS = 4  # one of so many points of the space may be compiled, and three at least
_LEAST, _LARGEST = 3, 24
_TRIED = 64  # points checked until one is right, before any work


@dataclass(frozen=True)
class Wanted:
    """How to search. `seconds`: the time budget; `runs`: compiles at most, None for a quarter of the space."""

    goal: str | None = None
    seconds: float = 60 * MINUTES
    runs: int | None = None
    trials: int = TRIALS


@dataclass(frozen=True, repr=False)
class Tuned:
    """What won. `text` is the plan with its values; `candidates` all that were looked at, the best first."""

    path: Path
    output: Path
    goal: str
    axes: dict[str, tuple[str, ...]]
    winner: Candidate
    text: str
    candidates: tuple[Candidate, ...]
    engine_runs: int
    modules_judged: int
    seconds: float
    why: str

    @property
    def points(self) -> list[Point]:
        """Every candidate as the table has it: of a bundle what was measured, else what is estimated."""
        return [as_point(one) for one in self.candidates]

    @property
    def front(self) -> list[Point]:
        """The compiled points that no other beats in size, quality, rate and memory."""
        made = [one.made for one in self.candidates if one.made is not None]
        return [made[at] for at in front(made)]

    def entry(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "ok": True,
            "plan": str(self.path),
            "output": str(self.output),
            "goal": self.goal,
            "winner": self.winner.entry(self.goal),
            "candidates": [one.entry(self.goal) for one in self.candidates],
            "front": [point.entry() for point in self.front],
            "points_of_the_space": math.prod(map(len, self.axes.values())),
            "engine_runs": self.engine_runs,
            "modules_judged": self.modules_judged,
            "seconds": round(self.seconds, 1),
            "ended": self.why,
        }

    def __repr__(self) -> str:
        return f"<tuned {self.path}: {self.winner.name}; {self.goal} {self.winner.value(self.goal):.6g}>"


def as_point(candidate: Candidate) -> Point:
    """The candidate as a row of a table."""
    if candidate.made is not None:
        return candidate.made
    quality = next(iter(candidate.quality.values()), None)
    missed = tuple(f"`{line.text}` would not hold" for line, _ in candidate.misses())
    figures = replace(candidate.figures, quality=quality)
    code = candidate.exit_code if candidate.error else 0
    return Point(candidate.values, figures, missed, candidate.error, code, estimated=True)


def tuned_path(path: Path) -> Path:
    """Where the plan that won is written: `plan.edge` -> `plan.tuned.edge`."""
    return path.with_name(f"{path.stem}.tuned{path.suffix or '.edge'}")


def tune_plan(path: Path, defines: Sequence[str], output: Path, wanted: Wanted, options: CompileOptions) -> Tuned:
    """Search the plan's `tune(…)` lets; the text of the plan that won is returned, to be written to `output`.

    `options`: how the points that are compiled are.

    PlanError: E0986 for nothing to tune or no goal, E0985 without Optuna. RequirementError E0987 where no point meets
    every line: the nearest is told with what it misses.
    """
    started = time.monotonic()
    axes, fixed = _axes(path, defines)
    goal = _goal(_first(path, fixed, axes, wanted.goal))
    optimiser()
    given = {name.strip(): value.strip() for name, _, value in (one.partition("=") for one in fixed)}

    def text_of(values: Values) -> str:
        return chosen_text(path, {**values, **given}, output, "edgec tune", axes)

    text_of({name: values[0] for name, values in axes.items()})  # what cannot be written is told before any work
    looker = Looker(path, fixed, goal, options.progress)
    ranked, winner, runs, why = _searched(looker, axes, wanted, started, options)
    ranked.sort(key=lambda one: (one.made is None, *one.rank(goal)))
    if winner is None:
        _nothing_holds(ranked)
    text = _said(winner, goal, runs, axes) + text_of(winner.values)
    _checked_text(output, text)
    seconds = time.monotonic() - started
    candidates = (winner, *(one for one in ranked if one is not winner))
    return Tuned(path, output, goal, axes, winner, text, candidates, runs, looker.modules_judged, seconds, why)


def _searched(
    looker: Looker, axes: dict[str, tuple[str, ...]], wanted: Wanted, started: float, options: CompileOptions
) -> tuple[list[Candidate], Candidate | None, int, str]:
    """(all candidates, the best that holds, how many were compiled, why it ended).

    Looks without an engine get a share of the time, then the best are compiled; what time is left goes on likewise.
    """
    most, runs, share = wanted.runs or _most(axes), 0, _SHARE
    while True:
        before, end = looker.modules_judged, started + wanted.seconds
        ranked = explore(looker, axes, started + share * wanted.seconds, wanted.trials)
        looker.progress(f"{len(ranked)} points looked at, {looker.modules_judged} times a module judged")
        winner, more, why = compile_best(looker, ranked, most - runs, end, options)
        runs += more
        if time.monotonic() > end or runs >= most or looker.modules_judged == before:
            return ranked, winner, runs, why
        share = 1.0


def _axes(path: Path, defines: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """What varies, and what holds everywhere."""
    axes, fixed = sweep_axes(path, defines, with_tuned=True)
    if not axes:
        help = "declare what is to be chosen: `let block = tune(32, 64, 128)`"
        fail("E0986", f"nothing of `{path}` is to be tuned", help=help)
    return axes, fixed


def _first(path: Path, fixed: Sequence[str], axes: dict[str, tuple[str, ...]], goal: str | None) -> Plan:
    """The plan of the first point that a fast check lets pass; what is wrong with the first where none does."""
    wrong: PlanError | None = None
    for chosen in itertools.islice(itertools.product(*axes.values()), _TRIED):
        defines = defines_of(fixed, dict(zip(axes, chosen, strict=True)))
        plan, found, sources = check_plan(path, defines, fast=True, goal=goal)
        if plan is not None:
            return plan
        wrong = wrong or PlanError(*(one for one in found if one.severity == "error"), sources=sources)
    assert wrong is not None  # an axis has a value
    raise wrong


def _goal(plan: Plan) -> str:
    if plan.goal is None:
        help = "add `goal = decode.rate` to the plan, or give `--goal bundle.size`"
        fail("E0986", f"`{plan.path}` has no goal: nothing says which point is best", help=help)
    return plan.goal.subject


def _most(axes: dict[str, tuple[str, ...]]) -> int:
    return min(_LARGEST, max(_LEAST, math.prod(map(len, axes.values())) // _RUNS))


def _nothing_holds(ranked: Sequence[Candidate]) -> NoReturn:
    """E0987 with what the nearest misses; where all failed, the error of the first."""
    nearest = min(ranked, key=lambda one: one.violation)
    if nearest.error is not None or nearest.plan is None:
        assert nearest.error is not None  # a candidate without a plan has one
        raise PlanError(nearest.error)
    if nearest.made is not None and nearest.made.missed:
        missed = list(nearest.made.missed)
    else:
        missed = [_miss(nearest, line.text, line.subject) for line, _ in nearest.misses()]
    said = "\n    ".join(missed)
    at = next((Label(line.span) for line, _ in nearest.misses()), None)
    message = f"no point meets every `require` line; the nearest is {nearest.name}:\n    {said}"
    help = "loosen the line, or offer other values in `tune(…)`"
    raise RequirementError(Diagnostic("E0987", message, at, help=help), sources=nearest.plan.sources)


def _miss(candidate: Candidate, text: str, subject: str) -> str:
    name, owner = subject_of(subject, measures())
    value = candidate.value(subject) or 0.0
    return f"`{text}` would not hold: {measures()[name]().describe(value, candidate.baseline.get(owner or '', 1.0))}"


def _said(winner: Candidate, goal: str, runs: int, axes: dict[str, tuple[str, ...]]) -> str:
    name, owner = subject_of(goal, measures())
    value, base = winner.value(goal) or 0.0, winner.baseline.get(owner or "", 1.0)
    figure = measures()[name]().describe(value, base)
    count = math.prod(map(len, axes.values()))
    return f"# edgec tune: {goal} is {figure}; {runs} of {count} points were compiled.\n"


def _checked_text(output: Path, text: str) -> None:
    plan, found, sources = check_plan(output, (), text, fast=True)
    if plan is None:
        raise PlanError(*(one for one in found if one.severity == "error"), sources=sources)
