"""A process and all below it, watched while it runs: resident memory, CPU time, how long each kind was there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass
class Share:
    """What the processes of one kind took."""

    peak: int = 0  # the most that was resident, bytes; pages that several processes share count once
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
            for kind, processes in self._look().items():
                share = self.shares.setdefault(kind, Share())
                share.seconds += now - last
                # what each has of its shared pages takes long to read, and a sum of resident sets is never less: of
                # a process that has forked and not yet become another program it is twice as much
                if _sum(processes, lambda one: one.memory_info().rss) > share.peak:
                    share.peak = max(share.peak, _sum(processes, lambda one: one.memory_full_info().pss))
            last = now

    def _look(self) -> dict[str, list[psutil.Process]]:
        """The processes of each kind, now."""
        found: dict[str, list[psutil.Process]] = {}
        for process in _tree(self._process):
            try:
                with process.oneshot():
                    kind = self._kinds.setdefault(process.pid, self._kind_of(" ".join(process.cmdline())))
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system
                    found.setdefault(kind, []).append(process)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found


def _sum(processes: list[psutil.Process], bytes_of: Callable[[psutil.Process], int]) -> int:
    total = 0
    for process in processes:
        with suppress(psutil.Error):  # it has ended
            total += bytes_of(process)
    return total


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
