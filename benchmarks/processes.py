"""A process and all below it, watched while it runs: resident memory, CPU time, how long each kind was there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil


@dataclass
class Share:
    """What the processes of one kind took."""

    peak: int = 0  # the largest sum of resident sets, bytes
    seconds: float = 0.0  # during which there was at least one
    cpu: float = 0.0  # user and system seconds, all of them together


class Watch:
    """Looks every 20 ms; `shares[kind_of(command line)]` is complete after the `with`."""

    def __init__(self, process: psutil.Process, kind_of: Callable[[str], str] = lambda _command: "all") -> None:
        self.shares: dict[str, Share] = {}
        self._process, self._kind_of = process, kind_of
        self._kinds: dict[int, str] = {}
        self._cpu: dict[int, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for pid, seconds in self._cpu.items():
            self.shares[self._kinds[pid]].cpu += seconds

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._done.wait(0.02):
            now = time.monotonic()
            for kind, resident in self._look().items():
                share = self.shares.setdefault(kind, Share())
                share.peak, share.seconds = max(share.peak, resident), share.seconds + now - last
            last = now

    def _look(self) -> dict[str, int]:
        """Resident bytes by kind, now."""
        found: dict[str, int] = {}
        for process in _tree(self._process):
            try:
                with process.oneshot():
                    kind = self._kinds.setdefault(process.pid, self._kind_of(" ".join(process.cmdline())))
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system
                    found[kind] = found.get(kind, 0) + process.memory_info().rss
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
