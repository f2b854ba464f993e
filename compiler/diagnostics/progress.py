"""How far a long step is: lines of which each replaces the one before, where they are read on a terminal."""

from __future__ import annotations

import time


class Passing(str):
    """A line of progress that the next one outdates."""

    __slots__ = ()


class Sparse:
    """Lets through one passing line a second at first, later one per fiftieth of the time gone: a log stays short."""

    def __init__(self, apart: float = 1.0, share: float = 0.02) -> None:
        self.apart, self.share = apart, share
        self.start = time.perf_counter()
        self.told = float("-inf")

    def lets(self, text: str) -> bool:
        """Whether `text` is to be printed; other lines always are."""
        if not isinstance(text, Passing):
            return True
        now = time.perf_counter()
        if now - self.told < max(self.apart, self.share * (now - self.start)):
            return False
        self.told = now
        return True
