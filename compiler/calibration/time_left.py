"""Tell how far a known number of steps is and how long the rest takes, from within the first step on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..diagnostics.progress import Passing

_OFTEN = 0.2  # seconds between two lines at least, except of a step that begins
_ENOUGH = 0.5  # seconds from which on the time gone says how long the rest takes


class TimeLeft:
    """`costs`: the expected duration of each step, in any unit; lines go to `say`, each outdated by the next."""

    def __init__(self, say: Callable[[str], None], what: str, costs: Sequence[float]) -> None:
        self.say, self.what, self.costs, self.done = say, what, costs, 0
        self.start, self.told, self.name = time.perf_counter(), float("-inf"), ""

    def tick(self, name: str) -> None:
        """The next step begins: `gptq layers.3 (4 of 28), about 50 s left`."""
        self.name, self.done = name, self.done + 1
        self._tell(0.0)

    def within(self, share: float) -> None:
        """`share` (0 to 1) of the present step is done."""
        if time.perf_counter() - self.told > _OFTEN:
            self._tell(share)

    def _tell(self, share: float) -> None:
        self.told = time.perf_counter()
        spent, before = self.told - self.start, sum(self.costs[: self.done - 1])
        done = before + share * self.costs[self.done - 1]
        left = f", {duration(spent / done * (sum(self.costs) - done))} left" if done and spent > _ENOUGH else ""
        self.say(Passing(f"{self.what} {self.name} ({self.done} of {len(self.costs)}){left}"))


def duration(seconds: float) -> str:
    """`about 50 s`, `about 12 min`, `about 2.5 h`."""
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"
