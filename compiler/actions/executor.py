"""Work a graph off on this machine: never more actions than `jobs`, never more memory than the budget.

    known? ─▶ done      ready and fits ─▶ a process ─▶ result noted      over the budget ─▶ the youngest starts again

Memory is what each action is estimated to take, corrected by what earlier runs took; beside that, resident bytes are
sampled, and an action that takes more than was thought is stopped before the budget is gone. Whatever has run is noted
at once: a graph that was cut off goes on where it was.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Protocol

from ..diagnostics.diagnostic import Diagnostic, EdgecError, EngineError, PlanError, fail
from . import records
from .action import Action, Graph
from .finished import Finished
from .processes import resident, resident_tree
from .records import Result
from .scheduler import Limits, Scheduler

_LOOK = 0.1  # seconds between samples
_MORE = 1.3  # times what a stopped action had reached: what it is admitted with again
_NEAR = 0.97  # of the budget: from here on the youngest action is stopped


class Stopped(Exception):
    """An action was stopped to make room; it is to run again."""


class Runner(Protocol):
    """Where actions run."""

    def run(self, action: Action) -> Result:
        """Run an action to its end; Stopped after `stop`, EdgecError with what is wrong."""
        ...

    def stop(self, key: str) -> None:
        """End a running action now."""
        ...

    def pids(self) -> Mapping[str, int]:
        """The processes of running actions on this machine, by key."""
        ...

    def beside(self) -> int:
        """Resident bytes of what it needs itself on this machine."""
        ...


@dataclass
class Row:
    """One action of a run, for the timeline: seconds since the start, bytes at its peak."""

    action: Action
    start: float
    end: float = 0.0
    peak: float = 0.0
    state: str = "ran"  # or `cached`, `failed`, `stopped`
    why: str = ""


@dataclass
class Outcome:
    """What a graph came to, filled while it runs. `samples`: (seconds, resident bytes of everything)."""

    began: float = field(default_factory=time.perf_counter)
    rows: list[Row] = field(default_factory=list)
    failed: dict[str, EdgecError] = field(default_factory=dict)
    samples: list[tuple[float, int]] = field(default_factory=list)

    def error(self, sources: Mapping[str, str] | None = None) -> EdgecError | None:
        """All failures as one; None where there are none."""
        errors = list(self.failed.values())
        if not errors:
            return None
        told = list(dict.fromkeys(one for error in errors for one in error.diagnostics))
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else EngineError
        return kind(*told, sources=sources or errors[0].sources)


Tell = Callable[[str, Row, int, int], None]  # event (`start`, `end`), row, how many are done, of how many


def within(graph: Graph, limits: Limits, own: float = 0.0) -> None:
    """E0962 before the start if one action that has to run cannot fit into the budget, with what would be enough."""
    if limits.memory is None:
        return
    needs = [(records.corrected(action)[0], action) for key, action in graph if records.known(key) is None]
    if not needs:
        return
    need, action = max(needs, key=lambda one: one[0])
    if need + own > limits.memory:
        message = f"`{action.label}` is estimated to take {need / 1e9:.1f} GB beside {own / 1e9:.1f} GB of edgec itself"
        help = (
            f"give `--memory {math.ceil((need + own) / 1e8) / 10:g}GB`, or cut the model into more parts (`shard = …`)"
        )
        fail("E0962", f"{message}, more than the {limits.memory / 1e9:.1f} GB that `--memory` allows", help=help)


def run_graph(
    graph: Graph,
    runner: Runner,
    limits: Limits,
    tell: Tell = lambda _event, _row, _done, _all: None,
    keep_going: bool = False,
    plan: str = "",
    watch: Watch | None = None,
) -> Outcome:
    """Run what of the graph has not run. Failures are in the outcome; without `keep_going` nothing starts after one.

    `plan`: a name that the reasons of earlier runs are kept under.
    """
    return _Run(graph, runner, limits, tell, keep_going, plan, watch or Watch()).work()


@dataclass
class Watch:
    """What somebody who works beside a graph has to do with it."""

    outcome: Outcome = field(default_factory=Outcome)
    finished: Finished = field(default_factory=Finished)
    cancelled: threading.Event = field(default_factory=threading.Event)  # set: what runs is stopped
    own: float = 0.0  # bytes that this process comes to while the graph runs


class Cancelled(Exception):
    """Nobody needs what is left of a graph."""


class _Run:
    def __init__(
        self, graph: Graph, runner: Runner, limits: Limits, tell: Tell, keep_going: bool, plan: str, watch: Watch
    ) -> None:
        self.graph, self.runner, self.limits, self.tell = graph, runner, limits, tell
        self.keep_going, self.plan, self.watch = keep_going, plan, watch
        self.outcome = watch.outcome
        self.outcome.began = time.perf_counter()
        self.rows: dict[str, Row] = {}
        self.started: dict[str, float] = {}
        known = {key for key, _ in graph if records.known(key) is not None}
        for key in known:
            self.outcome.rows.append(Row(graph.actions[key], 0.0, 0.0, state="cached"))
            watch.finished.add(key)
        costs = {key: records.corrected(action) for key, action in graph if key not in known}
        self.scheduler = Scheduler(
            graph,
            limits,
            known.__contains__,
            {key: memory for key, (memory, _) in costs.items()},
            {key: seconds for key, (_, seconds) in costs.items()},
        )

    def now(self) -> float:
        return time.perf_counter() - self.outcome.began

    def work(self) -> Outcome:
        pool = futures.ThreadPoolExecutor(self.limits.jobs)
        running: dict[futures.Future[Result], str] = {}
        self.watch.finished.begin()
        try:
            while True:
                self._start(pool, running)
                if not running:
                    break
                ended, _ = futures.wait(running, timeout=_LOOK, return_when=futures.FIRST_COMPLETED)
                self._sample(running)
                for future in ended:
                    self._end(running.pop(future), future)
                if self.watch.cancelled.is_set():
                    raise Cancelled
        except BaseException:
            for key in list(self.scheduler.running):
                self.runner.stop(key)
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        self._left_over()
        return self.outcome

    def _start(self, pool: futures.ThreadPoolExecutor, running: dict[futures.Future[Result], str]) -> None:
        if self.outcome.failed and not self.keep_going:
            return
        own = self._own() + self.runner.beside() if self.limits.memory is not None else 0.0
        while (key := self.scheduler.next(beside=own)) is not None:
            action = self.graph.actions[key]
            row = Row(action, self.now(), why=records.why(self.plan, action))
            self.rows[key] = row
            self._tell("start", row)
            running[pool.submit(self.runner.run, action)] = key

    def _own(self) -> float:
        return max(float(resident(os.getpid())), self.watch.own)

    def _end(self, key: str, future: futures.Future[Result]) -> None:
        row = self.rows.pop(key)
        row.end = self.now()
        self.outcome.rows.append(row)
        try:
            made = future.result()
        except Stopped:
            row.state = "stopped"
            self.scheduler.give_back(key, row.peak * _MORE)
        except EdgecError as error:
            row.state = "failed"
            self.outcome.failed[key] = error
            self.scheduler.drop(key)
        else:
            row.peak = max(row.peak, made.peak)
            records.remember_facts(self.plan, row.action)
            self.scheduler.finish(key)
            self.watch.finished.add(key)
        self._tell("end", row)

    def _tell(self, event: str, row: Row) -> None:
        self.tell(event, row, len(self.scheduler.done), len(self.graph))

    def _sample(self, running: Mapping[futures.Future[Result], str]) -> None:
        total = resident(os.getpid()) + self.runner.beside()
        for key, pid in self.runner.pids().items():
            held = resident_tree([pid])
            total += held
            if key in self.rows:
                self.rows[key].peak = max(self.rows[key].peak, held)
        self.outcome.samples.append((self.now(), total))
        if self.limits.memory is None or total <= self.limits.memory * _NEAR:
            return
        alive = [key for key in running.values() if key in self.rows]
        if not alive:
            return
        youngest = max(alive, key=lambda key: self.rows[key].start)
        self.runner.stop(youngest)

    def _left_over(self) -> None:
        """E0962 for what was never started though nothing failed: it does not fit beside what edgec takes itself."""
        behind = self.graph.behind(list(self.outcome.failed)) if self.outcome.failed else set[str]()
        if (self.outcome.failed and not self.keep_going) or not self.scheduler.left:
            return
        for key, action in self.graph:
            if key in self.scheduler.done or key in behind:
                continue
            need, own = self.scheduler.memory[key], self._own()
            message = f"`{action.label}` takes {need / 1e9:.1f} GB beside {own / 1e9:.1f} GB of edgec itself"
            most = (self.limits.memory or 0.0) / 1e9
            help = f"give `--memory {math.ceil((need + own) / 1e8) / 10:g}GB`"
            text = f"{message}, more than the {most:.1f} GB that `--memory` allows"
            self.outcome.failed[key] = PlanError(Diagnostic("E0962", text, help=help))
            return
