"""What a search finds out about a candidate, the cheapest first.

1  check and estimate      rates, memory, bytes of weights; no weight is read
2  perplexity of the module over few windows, then over more: solved weights are kept in the cache
3  the compile itself, measured on the engine (`finalists.py`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..diagnostics.diagnostic import EdgecError, PlanError
from ..diagnostics.progress import Passing
from ..driver import check_plan, estimate_plan, judge_modules
from ..plan.measure import subject_of
from ..registry import measures
from .candidate import Candidate
from .figures import asked, estimated_figures
from .made_point import defines_of
from .point import Values

Progress = Callable[[str], None]
_FEW, _MORE = 8, 2  # of the evaluation's windows: an eighth, a half, all


@dataclass
class Looker:
    """Looks at the candidates of one search; what was seen once is not looked at again."""

    path: Path
    fixed: Sequence[str]
    goal: str
    progress: Progress = lambda _text: None
    seen: dict[tuple[str, ...], Candidate] = field(default_factory=dict)
    modules_judged: int = 0
    _baseline: dict[str, float] = field(default_factory=dict)

    def estimated(self, values: Values) -> Candidate:
        """The candidate with what its check and its estimate say."""
        key = tuple(values.values())
        if key not in self.seen:
            self.progress(Passing(f"estimating point {len(self.seen) + 1}: {', '.join(key)}"))
            self.seen[key] = self._estimated(values)
        return self.seen[key]

    def _estimated(self, values: Values) -> Candidate:
        plan, found, _ = check_plan(self.path, defines_of(self.fixed, values), goal=self.goal)
        if plan is None:
            return Candidate(values, None, error=next(one for one in found if one.severity == "error"))
        candidate = Candidate(values, plan)
        try:
            candidate.figures = estimated_figures(plan, estimate_plan(plan))
        except PlanError as problem:
            candidate.error = problem.diagnostics[0]
        return candidate

    def rungs(self, candidate: Candidate) -> Iterator[int]:
        """Judge the candidate's modules over more and more windows, and say over how many, each time.

        Nothing where no line and no goal is about perplexity.
        """
        plan, judged = candidate.plan, _judged(candidate)
        if plan is None or plan.evaluation is None or not judged:
            return
        whole = plan.evaluation.windows
        for windows in sorted({max(1, whole // _FEW), max(1, whole // _MORE), whole}):
            if windows > candidate.windows:
                self._judge(candidate, windows, whole, judged)
            yield windows
            if candidate.error is not None:
                return

    def _judge(self, candidate: Candidate, windows: int, whole: int, judged: Sequence[str]) -> None:
        self.progress(Passing(f"judging {candidate.name} over {windows} of {whole} windows"))
        assert candidate.plan is not None  # `rungs` asks
        try:
            found = judge_modules(candidate.plan, windows, lambda text: self.progress(Passing(text)), judged)
        except EdgecError as problem:
            candidate.error, candidate.exit_code = problem.diagnostics[0], problem.exit_code
            return
        self.modules_judged += 1
        candidate.quality = {model: value / base for model, (value, base) in found.items()}
        candidate.windows = windows
        for model, (_, base) in found.items():
            if windows == whole or model not in self._baseline:
                self._baseline[model] = base
        candidate.baseline = self._baseline  # one for all: it becomes that of all windows


def _judged(candidate: Candidate) -> list[str]:
    """The models whose perplexity a line or the goal names."""
    found = (subject_of(subject, measures()) for subject in asked(candidate.plan)) if candidate.plan is not None else ()
    return list(dict.fromkeys(owner for name, owner in found if owner and measures()[name].needs_evaluation))
