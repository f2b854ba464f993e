"""One worker process for everything that is open under one key; it ends with its last user.

user = join(key, start)          # `start` makes the Child if nobody has joined under `key`
user.call("run", …)              # from any thread: the process takes one call at a time
user.leave()
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from .child_process import Child

_T = TypeVar("_T")
_RUNNING: weakref.WeakValueDictionary[Hashable, SharedChild] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


class SharedChild:
    """A process with the number of those who use it; it takes one call at a time, from any thread."""

    def __init__(self, child: Child) -> None:
        self._child, self._users = child, 0
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

    def leave_after(self, method: str, **arguments: Any) -> None:
        """`leave`, and where others stay let the worker free what this user had."""
        with self._lock:
            try:
                if self._child.alive and self._users > 1:
                    self._child.call(method, **arguments)
            finally:
                self.leave()

    def using(self, what: str, act: Callable[[Child], _T]) -> _T:
        """What `act` makes with the process; `what` names the work in every message about it."""
        with self._lock:
            self._child.what = what
            return act(self._child)

    def call(self, what: str, method: str, **arguments: Any) -> Any:
        """The worker's answer; `what` as in `using`."""
        return self.using(what, lambda child: child.call(method, **arguments))


def join(key: Hashable, start: Callable[[], Child]) -> SharedChild:
    """The process that runs under `key`, kept until `leave`; a new one where there is none, or it has ended."""
    with _LOCK:
        shared = _RUNNING.get(key)
        if shared is None or not shared.join():
            shared = _RUNNING[key] = SharedChild(start())
            shared.join()
        return shared
