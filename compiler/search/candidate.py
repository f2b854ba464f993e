"""A point that a search looks at: what has been found out about it so far, and how good that makes it.

violation   how far the `require` lines are missed, each relative to its bound; 0 where all that is known hold
cost        the goal's figure, the less the better
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..diagnostics.diagnostic import Diagnostic
from ..plan.measure import subject_of
from ..plan.plan import Plan, Require
from ..registry import measures
from .point import Figures, Point, Values

_FAR = 1e9  # beside any violation and any cost
_DOUBT = 0.03  # of a ratio of perplexities over one window of 256 tokens


@dataclass
class Candidate:
    """One point. `quality`: perplexity over baseline by model, over `windows` windows; `made`: as it was compiled."""

    values: Values
    plan: Plan | None
    figures: Figures = field(default_factory=Figures)
    quality: dict[str, float] = field(default_factory=dict)
    windows: int = 0
    baseline: Mapping[str, float] = field(default_factory=dict)  # perplexity of the float models over all windows
    made: Point | None = None
    error: Diagnostic | None = None
    exit_code: int = 1

    @property
    def name(self) -> str:
        """Its values in one line."""
        return Point(self.values).name

    def value(self, subject: str) -> float | None:
        """What is known of the figure that a `require` line or the goal names; of a bundle what was measured."""
        if self.made is not None and subject in self.made.figures.measures:
            return self.made.figures.measures[subject]
        name, owner = subject_of(subject, measures())
        if name == "size" and owner == "bundle":
            return self.figures.size
        if owner in self.quality and measures()[name].needs_evaluation:
            return self.quality[owner] * self.baseline.get(owner, 1.0)
        return self.figures.measures.get(subject)

    def misses(self) -> list[tuple[Require, float]]:
        """The lines that do not hold by what is known, each with how far it is missed, relative to its bound."""
        found = []
        for line in self.plan.requires if self.plan is not None else ():
            value, owner = self.value(line.subject), subject_of(line.subject, measures())[1] or ""
            base = self.baseline.get(owner, 1.0)
            if value is not None and not line.holds(value, base):
                bound = line.value * base if line.relative_to_baseline else line.value
                far = abs(value - bound) / bound - (self._doubt if owner in self.quality else 0.0)
                if far > 0:
                    found.append((line, far))
        return found

    @property
    def judged(self) -> bool:
        """Whether its modules were judged over all windows, or there is nothing to judge."""
        evaluation = self.plan.evaluation if self.plan is not None else None
        return evaluation is None or self.windows >= evaluation.windows

    @property
    def _doubt(self) -> float:
        """What perplexity over few windows may be off, as a share; none over all of them, and none of a bundle."""
        return 0.0 if self.made is not None or self.judged else _DOUBT / self.windows**0.5

    @property
    def violation(self) -> float:
        """How far it is from holding."""
        return _FAR if self.error is not None else sum(far for _, far in self.misses())

    def cost(self, goal: str) -> float:
        """The goal's figure, negative where the larger is the better; far away where nothing is known of it."""
        value = self.value(goal)
        if value is None:
            return _FAR
        return -value if measures()[subject_of(goal, measures())[0]].more_is_better else value

    def score(self, goal: str) -> float:
        """One number to be made small: points that hold by their cost, behind them the others by their violation."""
        return _FAR * (1 + self.violation) if self.violation else self.cost(goal)

    def rank(self, goal: str) -> tuple[float, float, float]:
        """The order among candidates; of equal ones the one of better quality is first."""
        return self.violation, self.cost(goal), sum(self.quality.values())

    def entry(self, goal: str) -> dict[str, Any]:
        """As JSON has it: `state` says how far it came."""
        return {
            "values": dict(self.values),
            "state": self.state,
            "goal": self.value(goal),
            "quality": dict(self.quality),
            "windows": self.windows,
            "violation": None if self.error is not None else self.violation,
            "made": None if self.made is None else self.made.entry(),
            "error": None if self.error is None else {"code": self.error.code, "message": self.error.message},
        }

    @property
    def state(self) -> str:
        """In a word: an error's code, or the last thing that looked at it."""
        if self.error is not None:
            return self.error.code
        if self.made is not None:
            return "compiled"
        return f"{self.windows} windows" if self.windows else "estimated"
