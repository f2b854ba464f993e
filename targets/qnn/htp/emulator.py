"""Run compiled graphs on the HTP emulator, in a process of their own.

`QnnSession.run(feeds) -> outputs` takes and gives the graph's own tensors (fp16 floats, int32 ids). Only unshared
twins can be opened here; `what` names the part in every message.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ....compiler.emit.child_process import Child
from .chip import Chip
from .context_binary import WORKER

if TYPE_CHECKING:
    import numpy as np


class QnnEmulator:
    """One worker process; the graphs opened in it live until it is closed."""

    def __init__(self, chip: Chip, what: str) -> None:
        self._chip = chip
        self._child = Child(WORKER, what=f"the HTP emulator running {what}")

    def open(self, onnx: Path) -> QnnSession:
        """Load the EPContext ONNX of a twin."""
        handle = self._child.call(
            "open",
            path=str(onnx.absolute()),
            soc_model=self._chip.soc_model,
            arch=self._chip.arch,
            vtcm_mb=self._chip.vtcm_mb,
        )
        return QnnSession(self._child, handle)

    def close(self) -> None:
        """End the process; its sessions cannot be used any more."""
        self._child.close()


class QnnSession:
    """One graph on the emulator."""

    def __init__(self, child: Child, handle: int) -> None:
        self._child, self._handle = child, handle

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        return self._child.call("run", handle=self._handle, feeds=dict(feeds))

    def close(self) -> None:
        """End the process the graph runs in."""
        self._child.close()
