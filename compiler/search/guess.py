"""Which of the points that were estimated is judged next, in a space small enough to be estimated whole.

first    points that show values no judged point has: a few cover every value of every let
then     the best by what effects of the values predict (`main_effects.py`), a little optimistic
never    what another has beaten, or what cannot win even by a generous prediction
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .candidate import Candidate
from .main_effects import Effects, fit

_OPTIMISM, _GENEROUS = 1.0, 2.5  # standard deviations of the prediction


def next_candidate(open_: Sequence[Candidate], seen: Sequence[Candidate], goal: str) -> Candidate | None:
    """Of the candidates in `open_`, none judged yet; None where no other can win. `seen`: all candidates."""
    judged = [one for one in seen if one.quality]
    shown = {value for one in judged for value in one.values.items()}
    ranked = sorted(open_, key=lambda one: one.rank(goal))
    new = [len(set(one.values.items()) - shown) for one in ranked]
    if ranked and max(new) > 0:
        middle = len(ranked) / 2  # of the goal: neither what is too coarse to hold nor what is too fine to win
        return min(zip(ranked, new, range(len(ranked)), strict=True), key=lambda row: (-row[1], abs(row[2] - middle)))[
            0
        ]
    if not judged:
        return next(iter(ranked), None)
    effects = {model: fit([(one.values, one.quality[model]) for one in judged]) for model in judged[0].quality}
    best = min((one.cost(goal) for one in judged if one.judged and not one.violation), default=None)
    winning = [one for one in ranked if _can_win(predicted(one, effects, judged[0], _GENEROUS), best, goal)]
    return min(winning, key=lambda one: predicted(one, effects, judged[0], _OPTIMISM).rank(goal), default=None)


def predicted(candidate: Candidate, effects: dict[str, Effects], like: Candidate, deviations: float) -> Candidate:
    """The candidate as if it had been judged over all windows, and had come out so many deviations above the fit."""
    plan = candidate.plan
    windows = plan.evaluation.windows if plan is not None and plan.evaluation is not None else 0
    quality = {model: one.quality(candidate.values, deviations) for model, one in effects.items()}
    return replace(candidate, quality=quality, windows=windows, baseline=like.baseline)


def _can_win(candidate: Candidate, best: float | None, goal: str) -> bool:
    return not candidate.violation and (best is None or candidate.cost(goal) <= best)
