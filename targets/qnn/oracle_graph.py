"""A target-level graph in ONNX Runtime on the CPU: the emulator's numbers but for rounding, in less time.

In a process of its own with limits of time and memory: the graph may be one that a bundle carried.
"""

from __future__ import annotations

from pathlib import Path

from ...compiler.emit.graph_in_child import GraphInChild
from .htp.context_binary import WORKER


class OracleGraph(GraphInChild):
    """One graph, open; unoptimised, as an oracle is. All graphs of one folder share the process."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(WORKER, str(path.parent), path.parent, what, "open_plain", path=str(path.absolute()))
