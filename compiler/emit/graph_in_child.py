"""A graph that may come from anywhere, open in a worker process with limits of time and memory."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .child_process import Child
from .shared_child import join

_SECONDS = 60.0  # for one call, and beside that the time to go through the weights on a slow, busy machine
_SLOWEST = 2e6  # bytes a second
_SPARE = 4 << 30  # bytes a graph may take beside its weights: activations, caches, the engine itself
_EXPANDED = 16  # times the bytes of its files: 4-bit integers as floats, twice


class GraphInChild:
    """One graph of the files in `folder`; all graphs of one worker and `key` share the process.

    The worker's method `opens` takes `words` and gives a handle, its `run` takes that and feeds.
    """

    def __init__(self, worker: str, key: Hashable, folder: Path, what: str, opens: str, **words: Any) -> None:
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        self._what, self._ended = what, False
        self._process = join((worker, key), lambda: _start(worker, size))
        try:
            self._handle = self._process.call(what, opens, **words)
        except BaseException:
            self._process.leave()
            raise

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; EngineError where the engine refuses, dies or gives no answer in time."""
        return self._process.call(self._what, "run", handle=self._handle, feeds=dict(feeds))

    def close(self) -> None:
        """Leave the process; calling it twice is harmless."""
        if not self._ended:
            self._ended = True
            self._process.leave()


def _start(worker: str, size: int) -> Child:
    child = Child(worker, what="the engine", timeout=_SECONDS + size / _SLOWEST)
    if sys.platform == "linux":
        child.call("limit", more=_SPARE + _EXPANDED * size)
    return child
