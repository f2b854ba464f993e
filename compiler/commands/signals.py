"""SIGINT, SIGTERM and SIGHUP end a command: what it had begun is removed, the exit code is 128 + the number."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ..files.undisturbed import postponed

_ASK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_arrived: list[Ended] = []


class Ended(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def signals_end() -> Iterator[None]:
    """Raise `Ended` in the main thread where a signal asks to end; who ignores one (nohup) goes on ignoring it."""
    held = {}
    _arrived.clear()
    if threading.current_thread() is threading.main_thread():
        for number in _ASK:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                held[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What a shell expects of a process that a signal ended."""
    return 128 + (interrupt.number if isinstance(interrupt, Ended) else signal.SIGINT)


def arrived() -> Ended | None:
    """The signal that asked this command to end, whatever a library or a used file made of its exception."""
    return _arrived[0] if _arrived else None


def _end(number: int, _frame: FrameType | None) -> None:
    for other in (signal.SIGTERM, signal.SIGHUP):  # a second one must not disturb the cleaning up
        signal.signal(other, signal.SIG_IGN)
    ended = Ended(number)
    _arrived[:] = [ended]
    if not postponed(ended):
        raise ended
