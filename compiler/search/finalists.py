"""The best candidates compiled and measured on their engines, until no other could be better.

ranked candidates -> compile -> figures of the bundle -> the best that holds, and why the search ended
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..diagnostics.progress import Passing
from ..driver import CompileOptions
from ..files.scratch import scratch_folder
from ..plan.measure import subject_of
from ..registry import measures
from .candidate import Candidate
from .look import Looker
from .made_point import made_point

_CLOSE = 0.005  # of a figure: what an engine may add to a module's perplexity, and bytes to an estimate
_NEAREST = 2  # compiled where none seems to hold: an engine may be kinder than the module


def compile_best(
    looker: Looker, candidates: Sequence[Candidate], most: int, until: float, options: CompileOptions
) -> tuple[Candidate | None, int, str]:
    """(the best that holds, how many were compiled, why it ended); the first is compiled whatever the clock says.

    A candidate is judged over all windows before it is compiled: what looked best over few may fall behind.
    """
    goal, runs = looker.goal, 0
    with scratch_folder("tune") as work:
        while (candidate := _next(candidates, goal)) is not None:
            late = time.monotonic() > until
            if late and (runs or _best(candidates, goal) is not None):
                return _best(candidates, goal), runs, "the time was over"
            if not late and not candidate.judged and not _without_text(looker, candidate):
                continue
            if runs >= (most if not candidate.violation else min(most, _runs_for_nearest(candidates))):
                return _best(candidates, goal), runs, f"{runs} were compiled, as many as may be"
            runs += 1
            options.progress(f"compiling {candidate.name}")
            _compile(candidate, work / f"{runs:03}", options)
    return _best(candidates, goal), runs, "no other could be better"


def _without_text(looker: Looker, candidate: Candidate) -> bool:
    """Judge the candidate to the last rung; true where there is nothing to judge."""
    before = candidate.windows
    for _ in looker.rungs(candidate):
        pass
    return candidate.error is None and candidate.windows == before


def _runs_for_nearest(candidates: Sequence[Candidate]) -> int:
    """How many may be compiled where none seems to hold: those so far that did, and a few of the nearest."""
    return sum(one.made is not None and not one.made.missed for one in candidates) + _NEAREST


def _next(candidates: Sequence[Candidate], goal: str) -> Candidate | None:
    """The best by what is known, of those that could be the best of all: those that were judged, if any was."""
    best = _best(candidates, goal)
    open_ = [one for one in candidates if one.made is None and one.error is None and not _hopeless(one)]
    if any(one.quality for one in candidates):
        open_ = [one for one in open_ if one.quality]
    if best is not None:
        open_ = [one for one in open_ if _could_be_better(one, best, goal)]
    return min(open_, key=lambda one: one.rank(goal), default=None)


def _compile(candidate: Candidate, bundle: Path, options: CompileOptions) -> None:
    assert candidate.plan is not None  # those without one have an error
    quiet = replace(options, progress=lambda text: options.progress(Passing(text)))
    made = made_point(candidate.plan, candidate.values, bundle, False, quiet)
    candidate.made, candidate.error, candidate.exit_code = made, made.error, made.exit_code


def _best(ranked: Sequence[Candidate], goal: str) -> Candidate | None:
    holding = [one for one in ranked if one.made is not None and one.made.state == "holds"]
    return min(holding, key=lambda one: (one.cost(goal), one.made.figures.quality or 0.0), default=None)  # type: ignore[union-attr]  # made is asked


def _hopeless(candidate: Candidate) -> bool:
    """Whether a line about the device does not hold: it is estimated, and no compile changes it."""
    return any(subject_of(line.subject, measures())[1] is None for line, _ in candidate.misses())


def _could_be_better(candidate: Candidate, best: Candidate, goal: str) -> bool:
    """Whether the candidate, of which estimates speak, could still beat the best, which was measured."""
    if candidate.violation:
        return False
    mine, its = candidate.cost(goal), best.cost(goal)
    name, owner = subject_of(goal, measures())
    if owner is None:  # estimated of both: of equal ones the one with the better perplexity may win
        return mine < its or (mine == its and sum(candidate.quality.values()) < sum(best.quality.values()))
    if name == "size":  # both by their estimates: a bundle holds more than weights
        mine, its = candidate.figures.size or mine, best.figures.size or its
    return mine < its + _CLOSE * abs(its)
