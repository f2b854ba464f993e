"""When the parts of each call ran, by the runner's own clock, and how much of a lane ran beside another.

    beside = time in which a part of the lane and a part of another lane were running / time in which one of it was

A part's time is that of its engine; opening it the first time is left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Span:
    """One run of one part, in seconds of a clock that only differences of have a meaning."""

    lane: str
    part: str
    start: float
    end: float


@dataclass
class Timeline:
    """The spans of all calls, as they ended."""

    spans: list[Span] = field(default_factory=list)

    @contextmanager
    def running(self, lane: str, part: str) -> Iterator[None]:
        """Note the time of what runs inside; from any thread."""
        start = time.perf_counter()
        yield
        self.spans.append(Span(lane, part, start, time.perf_counter()))

    def lanes(self) -> dict[str, dict[str, Any]]:
        """Lane -> seconds that its parts ran, and the share of them in which another lane was running too."""
        names = dict.fromkeys(span.lane for span in self.spans)
        return {
            name: {"seconds": _length(own := self._busy({name})), "beside": self._beside(own, names.keys() - {name})}
            for name in names
        }

    def _busy(self, lanes: set[str]) -> list[tuple[float, float]]:
        """The pieces of time in which a part of one of `lanes` ran, without overlaps, ascending."""
        found: list[tuple[float, float]] = []
        for start, end in sorted((span.start, span.end) for span in self.spans if span.lane in lanes):
            if found and start <= found[-1][1]:
                found[-1] = (found[-1][0], max(found[-1][1], end))
            else:
                found.append((start, end))
        return found

    def _beside(self, own: list[tuple[float, float]], others: set[str]) -> float:
        theirs, shared, at = self._busy(others), 0.0, 0
        for start, end in own:
            while at < len(theirs) and theirs[at][1] <= start:
                at += 1
            later = at
            while later < len(theirs) and theirs[later][0] < end:
                shared += min(end, theirs[later][1]) - max(start, theirs[later][0])
                later += 1
        return shared / (_length(own) or 1.0)


def _length(pieces: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in pieces)
