"""The child process that runs the ONNX graphs of a bundle: within limits, since a graph can loop or grow for ever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...compiler.emit.child_process import limit_memory, serve
from .session import PLAIN, OrtGraph, PlainGraph

_open: list[OrtGraph | PlainGraph] = []


def load(path: str, level: str, libraries: Sequence[str] = ()) -> int:
    """Open the graph at `path`, with libraries of custom ops; its number for `run`."""
    _open.append(PlainGraph(Path(path)) if level == PLAIN else OrtGraph(Path(path), level, libraries))
    return len(_open) - 1


def run(handle: int, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name."""
    return _open[handle].run(feeds)


if __name__ == "__main__":
    serve({"load": load, "run": run, "limit": limit_memory}, borrow=True)
