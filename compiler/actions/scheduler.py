"""Which action starts next: the one with the longest way to the end, of those that memory and cores have room for.

No clock and no process is in here. The executor drives it with real actions, `simulate` with a clock of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .action import Graph


@dataclass(frozen=True)
class Limits:
    """Actions at a time, and bytes for all of them together (None: not limited)."""

    jobs: int = 1
    memory: float | None = None


class Scheduler:
    """The state of a graph that is being worked off; `memory` and `seconds` by key may correct the estimates."""

    def __init__(
        self,
        graph: Graph,
        limits: Limits,
        done: Callable[[str], bool] = lambda _key: False,
        memory: Mapping[str, float] | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        self.graph, self.limits = graph, limits
        self.memory = {key: (memory or {}).get(key, action.memory) for key, action in graph}
        self.seconds = {key: (seconds or {}).get(key, action.seconds) for key, action in graph}
        self.running: set[str] = set()
        self.done: set[str] = set()
        self._users = graph.users()
        self._waits = {key: 0 for key, _ in graph}
        self._order = {key: number for number, (key, _) in enumerate(graph)}
        self._ready: list[tuple[float, int, str]] = []
        self._used = 0.0
        finished = {key for key, _ in graph if done(key)}
        rank = self._ranks()
        self._rank = rank
        for key, action in graph:
            self._waits[key] = sum(need not in finished for need in action.needs)
        self.done |= finished
        for key, _ in graph:
            if key not in finished and not self._waits[key]:
                self._push(key)

    def _ranks(self) -> dict[str, float]:
        """Seconds from the start of each action to the end of the longest chain behind it."""
        found: dict[str, float] = {}
        for key in reversed(self.graph.actions):
            found[key] = self.seconds[key] + max((found[user] for user in self._users[key]), default=0.0)
        return found

    def _push(self, key: str) -> None:
        heapq.heappush(self._ready, (-self._rank[key], self._order[key], key))

    @property
    def left(self) -> int:
        """Actions that are neither done nor running."""
        return len(self.graph) - len(self.done) - len(self.running)

    def next(self, beside: float = 0.0) -> str | None:
        """The action to start now, marked as running; None: nothing is ready, or nothing fits.

        `beside`: bytes that are taken by who asks.
        """
        if len(self.running) >= self.limits.jobs:
            return None
        put_back: list[tuple[float, int, str]] = []
        found = None
        while self._ready and found is None:
            entry = heapq.heappop(self._ready)
            if self._fits(entry[2], beside):
                found = entry[2]
            else:
                put_back.append(entry)
        for entry in put_back:
            heapq.heappush(self._ready, entry)
        if found is not None:
            self.running.add(found)
            self._used += self.memory[found]
        return found

    def _fits(self, key: str, beside: float) -> bool:
        return self.limits.memory is None or self._used + self.memory[key] + beside <= self.limits.memory

    def finish(self, key: str) -> None:
        """An action has run: what waited for it may start."""
        self._leave(key)
        self.done.add(key)
        for user in self._users[key]:
            self._waits[user] -= 1
            if not self._waits[user] and user not in self.done:
                self._push(user)

    def give_back(self, key: str, memory: float | None = None) -> None:
        """A running action was stopped and is to run again; `memory`: what it is known to take now."""
        self._leave(key)
        if memory is not None:
            self.memory[key] = memory
        self._push(key)

    def drop(self, key: str) -> None:
        """A running action failed: neither it nor what needs it will run."""
        self._leave(key)

    def _leave(self, key: str) -> None:
        self.running.discard(key)
        self._used -= self.memory[key]
        if not self.running:
            self._used = 0.0


@dataclass
class Simulated:
    """What a simulation came to: seconds to the end, and start and end of each action."""

    makespan: float = 0.0
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)


def simulate(graph: Graph, limits: Limits) -> Simulated:
    """The graph worked off by a clock that jumps from one end of an action to the next."""
    scheduler, made, ends = Scheduler(graph, limits), Simulated(), list[tuple[float, str]]()
    now = 0.0
    while True:
        while (key := scheduler.next()) is not None:
            ends_at = now + scheduler.seconds[key]
            made.spans[key] = (now, ends_at)
            heapq.heappush(ends, (ends_at, key))
        if not ends:
            break
        now, key = heapq.heappop(ends)
        scheduler.finish(key)
    made.makespan = now
    return made


def lower_bound(graph: Graph, limits: Limits) -> float:
    """Seconds that no schedule can stay below.

    The longest chain; and of all actions that cannot begin before some moment, that moment and their work divided among
    the workers, or their memory over time divided by the budget.
    """
    begins: dict[str, float] = {}
    for key, action in graph:
        begins[key] = max((begins[need] + graph.actions[need].seconds for need in action.needs), default=0.0)
    longest = max((begins[key] + action.seconds for key, action in graph), default=0.0)
    work = volume = 0.0
    for key in sorted(begins, key=begins.__getitem__, reverse=True):
        action = graph.actions[key]
        work += action.seconds
        volume += action.seconds * action.memory
        filled = max(work / limits.jobs, volume / limits.memory if limits.memory else 0.0)
        longest = max(longest, begins[key] + filled)
    return longest
