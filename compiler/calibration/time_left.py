"""Report the estimated time left at the start of each of a known number of steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class TimeLeft:
    """`costs`: the expected duration of each step, in any unit; `tick` begins the next step and reports it to `say`."""

    def __init__(self, say: Callable[[str], None], what: str, costs: Sequence[float]) -> None:
        self.say, self.what, self.costs, self.done = say, what, costs, 0
        self.start = time.perf_counter()

    def tick(self, name: str) -> None:
        """`gptq layers.3 (4 of 28), about 50 s left`"""
        left, before = "", sum(self.costs[: self.done])
        if before:
            spent = time.perf_counter() - self.start
            left = f", about {spent / before * (sum(self.costs) - before):.0f} s left"
        self.done += 1
        self.say(f"{self.what} {name} ({self.done} of {len(self.costs)}){left}")
