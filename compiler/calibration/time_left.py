"""How long the rest of a row of steps will take, told as they are begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class Clock:
    """`costs`: what each step is expected to take, in any unit; `tick` begins the next one."""

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
