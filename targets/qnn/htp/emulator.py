"""Run compiled graphs on the HTP emulator, in a process of their own: one process for all graphs of one context.

`QnnSession.run(feeds) -> outputs` takes and gives the graph's own tensors (fp16 floats, int32 ids). Only unshared
twins can be opened here; `what` names part and bucket in every message. Sessions may be used from several threads;
the process takes one call at a time, as an NPU does.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....compiler.emit.child_process import Child
from .chip import Chip
from .context_binary import start_worker

if TYPE_CHECKING:
    import numpy as np

_RUNNING: weakref.WeakValueDictionary[tuple[Chip, str], QnnEmulator] = weakref.WeakValueDictionary()
_RUNNING_LOCK = threading.Lock()


def open_shared(chip: Chip, context: str, twin: Callable[[Child], Path], what: str) -> QnnSession:
    """Open a graph of `context` in the process that other graphs of it are open in, or in a new one.

    `twin` gives the EPContext ONNX, and may use the process to compile it. The process ends with its last session.
    """
    with _RUNNING_LOCK:
        emulator = _RUNNING.get((chip, context))
        if emulator is None or not emulator.join():
            emulator = _RUNNING[chip, context] = QnnEmulator(chip)
            emulator.join()
    try:
        return emulator.open(twin, what)
    finally:
        emulator.leave()


class QnnEmulator:
    """One worker process. It lives as long as somebody has joined it; every open session has."""

    def __init__(self, chip: Chip) -> None:
        self._chip, self._users = chip, 0
        self._child = start_worker("the HTP emulator")
        self._lock = threading.RLock()

    def join(self) -> bool:
        """Keep the process until `leave`; False if it has ended."""
        with self._lock:
            self._users += self._child.alive
            return self._child.alive

    def leave(self) -> None:
        """End the process if nobody else has joined it."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._child.close()

    def open(self, twin: Path | Callable[[Child], Path], what: str) -> QnnSession:
        """Load the EPContext ONNX of a twin, given as a path or made with the process."""
        with self._lock:
            self._child.what = f"the HTP emulator running {what}"
            path = twin if isinstance(twin, Path) else twin(self._child)
            handle = self.call(
                what,
                "open",
                path=str(path.absolute()),
                soc_model=self._chip.soc_model,
                arch=self._chip.arch,
                vtcm_mb=self._chip.vtcm_mb,
            )
            self.join()
            return QnnSession(self, handle, what)

    def using(self, act: Callable[[Child], Path], what: str) -> Path:
        """What `act` makes with the process."""
        with self._lock:
            self._child.what = f"the HTP compiler for {what}"
            return act(self._child)

    def call(self, what: str, method: str, **arguments: Any) -> Any:
        """The worker's answer; `what` is at work, in the message of an error."""
        with self._lock:
            self._child.what = f"the HTP emulator running {what}"
            return self._child.call(method, **arguments)

    def drop(self, handle: int) -> None:
        """Free a graph, and the process with the last."""
        with self._lock:
            try:
                if self._child.alive and self._users > 1:
                    self._child.call("close", handle=handle)
            finally:
                self.leave()


class QnnSession:
    """One graph on the emulator."""

    def __init__(self, emulator: QnnEmulator, handle: int, what: str) -> None:
        self._emulator, self._handle, self._what = emulator, handle, what
        self._open = True
        self.timed: Callable[[float], None] = lambda _seconds: None  # told what each run took

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        start = time.monotonic()
        made = self._emulator.call(self._what, "run", handle=self._handle, feeds=dict(feeds))
        self.timed(time.monotonic() - start)
        return made

    def close(self) -> None:
        """Free the graph; the process ends with the last one that is open in it. Calling it twice is harmless."""
        if self._open:
            self._open = False
            self._emulator.drop(self._handle)
