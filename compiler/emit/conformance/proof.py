"""What no table holds is run: uses become trials, trials become rows of the local table.

    uses without a row  ->  trials (each with an estimate)  ->  the engine beside the oracle  ->  rows  ->  Legality

A target gives a `Prover`. A use that would take too long whole becomes several trials that the rule of `legality.py`
joins: slices of its outputs at its own tokens and K, and one run with all outputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ...diagnostics.diagnostic import Span
from ...diagnostics.progress import Passing
from ...diagnostics.wording import count
from .legality import Legality, described
from .local_table import LocalTable
from .measure import UNENDED, Case
from .op_class import Use
from .table import RIGHT, SECONDS, Row

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One run of the engine: what is run, about how long it takes, and of what it is a part (empty: it is whole)."""

    case: Case
    seconds: float
    part: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """Trials with the same key are one."""
        return self.case.lowering, self.case.shape


class Prover(Protocol):
    """What a target gives so that uses without a row can be run."""

    @property
    def engine(self) -> str:
        """What runs them, for people: `the HTP emulator for v79`."""
        ...

    @property
    def local(self) -> LocalTable:
        """Where their rows are kept."""
        ...

    def legality(self) -> Legality:
        """The judge by the shipped table and the local one, as it is now."""
        ...

    def trials(self, use: Use) -> list[Trial]:
        """What has to be run for a use that has no row; empty if it cannot be run alone."""
        ...

    def run(self, trial: Trial) -> Row:
        """The row of one trial; the verdict `unended` if it came to no end."""
        ...


@dataclass(frozen=True)
class Proof:
    """What of one deploy no table holds. `model` and `target` name the deploy, `line` is its place in the plan."""

    model: str
    target: str
    line: Span
    prover: Prover
    uses: tuple[Use, ...]
    trials: tuple[Trial, ...]

    @property
    def seconds(self) -> float:
        """About how long all trials take."""
        return sum(trial.seconds for trial in self.trials)

    def outlook(self) -> str:
        """`14 forms of `m` on the HTP emulator for v79, about 40 s`."""
        return (
            f"{count(len(self.trials), 'form')} of `{self.model}` on {self.prover.engine}, about {about(self.seconds)}"
        )


@dataclass(frozen=True)
class Proven:
    """The row of one trial."""

    trial: Trial
    row: Row

    @property
    def text(self) -> str:
        """`u16.linear (block 32, …): right, error 0.0004`."""
        part = f", {self.trial.part}" if self.trial.part else ""
        return f"`{self.row.lowering}` ({described(self.row.shape)}{part}): {verdict_text(self.row)}"

    def facts(self) -> dict[str, object]:
        """The row for programs; `part` says of what it is a part, empty if it is whole."""
        figures = {name: None if math.isnan(value) else value for name, value in self.row.figures.items()}
        row = self.row
        return {
            "place": row.place, "lowering": row.lowering, "shape": row.shape, "part": self.trial.part,
            "verdict": row.verdict, **figures,
        }  # fmt: skip


def verdict_text(row: Row) -> str:
    """The verdict and its figures: `wrong, error 0.31, cosine 0.82`."""
    return ", ".join(filter(None, (row.verdict, row.figures_text(), row.reason)))


def about(seconds: float) -> str:
    """A duration as one says it: `8 s`, `40 s`, `3 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds, -1 if seconds >= 20 else None)):.0f} s"
    return f"{seconds / 60:.0f} min"


def plan_trials(prover: Prover, uses: Sequence[Use]) -> tuple[list[Trial], list[Use]]:
    """The trials that answer for `uses`, each once and the shortest first; and the uses that cannot be run alone."""
    found: dict[tuple[object, ...], Trial] = {}
    left = []
    for use in uses:
        made = prover.trials(use)
        if not made:
            left.append(use)
        for trial in made:
            found.setdefault(trial.key, trial)
    return sorted(found.values(), key=lambda trial: trial.seconds), left


def run_trials(prover: Prover, trials: Sequence[Trial], say: Say = lambda _text: None) -> Iterator[Proven]:
    """Run trials; each row is kept as soon as there is one, so that a run that is cut off goes on where it was.

    Trials whose row the local table has by now are not run again.
    """
    known = {row.key: row for row in prover.local.rows()}
    for index, trial in enumerate(trials):
        row = known.get(Row(prover.local.place, trial.case.lowering, dict(trial.case.shape), RIGHT).key)
        if row is None:
            started = time.perf_counter()
            say(Passing(f"run {index + 1} of {len(trials)}: {trial.case.name}, about {about(trial.seconds)}"))
            row = prover.run(trial)
            taken = round(time.perf_counter() - started, 2)
            row = replace(row, figures={**row.figures, SECONDS: taken})
            if row.verdict != UNENDED:
                prover.local.keep([row])
        yield Proven(trial, row)
