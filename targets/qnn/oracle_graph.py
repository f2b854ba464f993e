"""A target-level graph in ONNX Runtime on the CPU: the emulator's numbers but for rounding, in less time.

In a process of its own with limits of time and memory: the graph may be one that a bundle carried.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...compiler.emit.child_process import Child
from ...compiler.emit.shared_child import join
from .htp.context_binary import WORKER

_SECONDS, _SLOWEST = 60.0, 2e6  # for one call, and bytes of weights a second on a slow, busy machine beside that
_SPARE, _EXPANDED = 4 << 30, 16  # bytes beside the weights, and 4-bit integers as floats, twice


class OracleGraph:
    """One graph, open; unoptimised, as an oracle is. All graphs of one folder share the process."""

    def __init__(self, path: Path, what: str) -> None:
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        self._what, self._ended = what, False
        self._process = join((WORKER, str(path.parent)), lambda: _start(size))
        try:
            self._handle = self._process.call(what, "open_plain", path=str(path.absolute()))
        except BaseException:
            self._process.leave()
            raise

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        return self._process.call(self._what, "run", handle=self._handle, feeds=dict(feeds))

    def close(self) -> None:
        """Free the session; calling it twice is harmless."""
        if not self._ended:
            self._ended = True
            self._process.leave()


def _start(size: int) -> Child:
    child = Child(WORKER, what="ONNX Runtime", timeout=_SECONDS + size / _SLOWEST)
    if sys.platform == "linux":
        child.call("limit", more=_SPARE + _EXPANDED * size)
    return child
