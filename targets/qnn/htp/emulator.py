"""Run compiled graphs on the HTP emulator, in a process of their own: one process for all graphs of one context.

`QnnSession.run(feeds) -> outputs` takes and gives the graph's own tensors (fp16 floats, int32 ids). Only unshared
twins can be opened here; `what` names part and bucket in every message. Sessions may be used from several threads;
the process takes one call at a time, as an NPU does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ....compiler.emit.child_process import Child
from ....compiler.emit.shared_child import SharedChild, join
from .chip import Chip
from .context_binary import start_worker

if TYPE_CHECKING:
    import numpy as np


def open_shared(chip: Chip, context: str, twin: Callable[[Child], Path], what: str) -> QnnSession:
    """Open a graph of `context` in the process that other graphs of it are open in, or in a new one.

    `twin` gives the EPContext ONNX, and may use the process to compile it. The process ends with its last session.
    """
    process = join(("the HTP emulator", chip, context), _start)
    try:
        return QnnEmulator(chip, process).open(twin, what)
    finally:
        process.leave()


class QnnEmulator:
    """The emulator of `chip` in a worker process, a new one if none is given. Every open session has joined that."""

    def __init__(self, chip: Chip, process: SharedChild | None = None) -> None:
        self._chip = chip
        self.process = process or SharedChild(_start())

    def open(self, twin: Path | Callable[[Child], Path], what: str) -> QnnSession:
        """Load the EPContext ONNX of a twin, given as a path or made with the process."""

        def load(child: Child) -> QnnSession:
            path = twin if isinstance(twin, Path) else twin(child)
            chip = {"soc_model": self._chip.soc_model, "arch": self._chip.arch, "vtcm_mb": self._chip.vtcm_mb}
            handle = child.call("open", path=str(path.absolute()), **chip)
            self.process.join()
            return QnnSession(self.process, handle, running)

        running = f"the HTP emulator running {what}"
        return self.process.using(running, load)


def _start() -> Child:
    return start_worker("the HTP emulator")


class QnnSession:
    """One graph on the emulator."""

    def __init__(self, process: SharedChild, handle: int, what: str) -> None:
        self._process, self._handle, self._what = process, handle, what
        self._open = True
        self.timed: Callable[[float], None] = lambda _seconds: None  # told what each run took

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        start = time.monotonic()
        made = self._process.call(self._what, "run", handle=self._handle, feeds=dict(feeds))
        self.timed(time.monotonic() - start)
        return made

    def close(self) -> None:
        """Free the graph; the process ends with the last one that is open in it. Calling it twice is harmless."""
        if self._open:
            self._open = False
            self._process.leave_after("close", handle=self._handle)
