"""Which actions of a graph have run, for those who wait for some of them while the others go on."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .action import Action, Graph


class NotRun(Exception):
    """What was waited for has not run, and will not: the outcome of the graph says why."""


class Finished:
    """Filled by whoever runs a graph, in a thread of its own."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._begun = self._closed = False
        self._changed = threading.Condition()

    def begin(self) -> None:
        """Whatever is to run the actions is there and well."""
        with self._changed:
            self._begun = True
            self._changed.notify_all()

    def wait_begun(self) -> None:
        """Return as soon as actions run, or when none will."""
        with self._changed:
            self._changed.wait_for(lambda: self._begun or self._closed)

    def add(self, key: str) -> None:
        """An action has run; its result is in the cache."""
        with self._changed:
            self._done.add(key)
            self._changed.notify_all()

    def close(self) -> None:
        """No further action will run."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, keys: Collection[str]) -> None:
        """Return when all of these have run; NotRun if one of them will not."""
        left = set(keys)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or left <= self._done)
            if not left <= self._done:
                raise NotRun


@dataclass(frozen=True)
class Stages:
    """The actions of a deploy line, by what the bundle reads of them.

    weights  what has to run before the steps on weights find what they solve in the cache
    lowered  what leaves the model's graphs there
    files    what leaves its files
    """

    weights: frozenset[str]
    lowered: frozenset[str]
    files: frozenset[str]

    def keys(self, stage: str) -> frozenset[str]:
        """The actions of a stage, by its name above (`CompileOptions.ready`)."""
        return {"weights": self.weights, "lowered": self.lowered, "files": self.files}[stage]


def stages_of(graph: Graph, last: Mapping[str, str]) -> dict[str, Stages]:
    """The stages of each model of a plan; `last`: the key that `add_plan` gave for it."""
    users, found = graph.users(), {}
    for model, key in last.items():
        action = graph.actions[key]
        weights = frozenset(_needs(graph, action))
        lowered = weights | {key} if action.kind == "lower" else weights
        found[model] = Stages(weights, lowered, weights | {key, *users[key]})
    return found


def _needs(graph: Graph, action: Action) -> set[str]:
    found, left = set[str](), list(action.needs)
    while left:
        if (key := left.pop()) not in found:
            found.add(key)
            left += graph.actions[key].needs
    return found
