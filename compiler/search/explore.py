"""Which points are looked at, and how closely: Optuna proposes them and gives up on those that fall behind.

A small space is estimated whole and judged in the order that `guess.py` tells; of a larger one a tree-structured Parzen
estimator proposes the points. Perplexity is judged in rungs of windows: at each, only the best third goes on
(successive halving).
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import fail
from ..plan.measure import subject_of
from ..registry import measures
from .candidate import Candidate
from .guess import next_candidate
from .look import Looker
from .point import all_points

if TYPE_CHECKING:
    from optuna import Study, Trial

WHOLE = 64  # points of a space that is estimated whole
_LEFT_BEHIND = 3  # one of so many goes on to the next rung
_REPEATS = 40  # proposals in a row that were all seen before: the sampler has settled
_SEED = 0  # a search twice is the same search
_CLOSE = 0.01  # of the goal's figure: what an estimate of bytes may be off


def optimiser() -> Any:
    """Optuna; E0985 where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError:
        help = "`pip install 'edgec[tune]'`; `edgec sweep` makes every combination without it"
        fail("E0985", "`edgec tune` searches with Optuna, which is not installed", help=help)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def explore(looker: Looker, axes: Mapping[str, Sequence[str]], until: float, trials: int) -> list[Candidate]:
    """Look at points until the clock says `until`, or `trials` were proposed; everything that was seen, the best first.

    At least one point is looked at to the last rung, whatever the clock says.
    """
    count = math.prod(map(len, axes.values()))
    with _study(count) as study:
        if count <= WHOLE:
            _whole_space(study, looker, axes, until)
        else:
            _proposed(study, looker, axes, until, trials)
    return sorted(looker.seen.values(), key=lambda one: one.rank(looker.goal))


@contextmanager
def _study(count: int) -> Iterator[Study]:
    optuna = optimiser()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `multivariate` is marked experimental
        sampler = optuna.samplers.TPESampler(
            seed=_SEED, multivariate=True, n_startup_trials=max(10, min(24, count // 8))
        )
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=_LEFT_BEHIND)
        yield optuna.create_study(direction="minimize", sampler=sampler, pruner=pruner)


def _whole_space(study: Study, looker: Looker, axes: Mapping[str, Sequence[str]], until: float) -> None:
    found = [looker.estimated(values) for values in all_points(axes, WHOLE)]
    tried = {id(one) for one in found if one.windows or one.made is not None}
    first = not tried
    while first or time.monotonic() < until:
        open_ = [one for one in found if id(one) not in tried and _promising(looker, one)]
        candidate = next_candidate(open_, found, looker.goal)
        if candidate is None:
            return
        tried.add(id(candidate))
        first = False
        study.enqueue_trial(dict(candidate.values))
        _one_trial(study, looker, axes)


def _proposed(study: Study, looker: Looker, axes: Mapping[str, Sequence[str]], until: float, trials: int) -> None:
    repeats = 0
    for number in range(trials):
        if repeats >= _REPEATS or (number and time.monotonic() > until):
            return
        known = len(looker.seen)
        _one_trial(study, looker, axes)
        repeats = 0 if len(looker.seen) > known else repeats + 1


def _one_trial(study: Study, looker: Looker, axes: Mapping[str, Sequence[str]]) -> None:
    from optuna.trial import TrialState

    trial = study.ask()
    values = {name: trial.suggest_categorical(name, list(choices)) for name, choices in axes.items()}
    candidate = looker.estimated(values)
    kept = _looked_at(trial, looker, candidate)
    if kept:
        study.tell(trial, candidate.score(looker.goal))
    else:
        study.tell(trial, state=TrialState.PRUNED)


def _looked_at(trial: Trial, looker: Looker, candidate: Candidate) -> bool:
    """Whether the candidate went through every rung; false where it cannot hold, is beaten, or fell behind."""
    if not _promising(looker, candidate):
        trial.report(candidate.score(looker.goal), 1)
        return False
    for rung, _ in enumerate(looker.rungs(candidate)):
        trial.report(candidate.score(looker.goal), _LEFT_BEHIND**rung)
        if candidate.error is not None or (trial.should_prune() and not _alone(looker, candidate)):
            return False
    return True


def _promising(looker: Looker, candidate: Candidate) -> bool:
    return candidate.error is None and not candidate.violation and not _beaten(looker, candidate)


def _alone(looker: Looker, candidate: Candidate) -> bool:
    """Whether no other candidate has come so far and holds: then it is looked at to the end."""
    further = [one for one in looker.seen.values() if one.windows >= candidate.windows and not one.violation]
    return not candidate.violation and further == [candidate]


def _beaten(looker: Looker, candidate: Candidate) -> bool:
    """Whether another, judged over all windows, holds and has a better goal, which no perplexity changes."""
    name, _ = subject_of(looker.goal, measures())
    if measures()[name].needs_evaluation:
        return False
    cost = candidate.cost(looker.goal)
    return any(
        other.cost(looker.goal) < cost - _CLOSE * abs(cost)
        for other in looker.seen.values()
        if other is not candidate and not other.violation and other.judged
    )
