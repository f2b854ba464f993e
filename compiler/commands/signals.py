"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it had begun is removed, the exit code is 128 + the number."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Ended(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def signals_end() -> Iterator[None]:
    """Raise `Ended` in the main thread where SIGTERM or SIGHUP arrive; who ignores them (nohup) goes on ignoring."""
    held = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                held[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What a shell expects of a process that a signal ended."""
    return 128 + (interrupt.number if isinstance(interrupt, Ended) else signal.SIGINT)


def _end(number: int, _frame: FrameType | None) -> None:
    for other in (signal.SIGTERM, signal.SIGHUP):  # a second one must not disturb the cleaning up
        signal.signal(other, signal.SIG_IGN)
    raise Ended(number)
