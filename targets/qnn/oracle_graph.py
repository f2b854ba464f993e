"""A target-level graph in ONNX Runtime on the CPU: the emulator's numbers but for rounding, in less time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...compiler.oracle.onnx_runtime import session


class OracleGraph:
    """One graph, open; unoptimised, as an oracle is."""

    def __init__(self, path: Path) -> None:
        self._session = session(str(path))
        self._outputs = [made.name for made in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        made = self._session.run(self._outputs, dict(feeds))
        return {name: np.asarray(array) for name, array in zip(self._outputs, made, strict=True)}

    def close(self) -> None:
        """Free the session."""
        del self._session
