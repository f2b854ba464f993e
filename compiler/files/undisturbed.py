"""Stretches that a signal must not cut in two, such as making a folder and noting that it has to be removed.

Whoever handles signals asks `postponed` first: within such a stretch of the main thread the exception is raised at its
end. (Blocking signals would not do: one that another thread receives is handled by the main thread all the same.)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_depth = 0  # of nested stretches in the main thread
_waiting: list[BaseException] = []


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A stretch that ends before a signal does anything; in other threads than the main one signals never do."""
    global _depth
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth and _waiting:
            raise _waiting.pop()


def postponed(interrupt: BaseException) -> bool:
    """Whether `interrupt` will be raised at the end of the stretch that the main thread is in, and so not now."""
    if _depth:
        _waiting[:] = [interrupt]
    return bool(_depth)
