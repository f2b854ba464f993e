"""Actions on this machine: each in a process of its own, which ends with the one that started it."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ..diagnostics.diagnostic import EdgecError
from ..emit.child_process import Child
from .action import Action
from .executor import Stopped
from .perform import made_before
from .records import Result


class LocalRunner:
    """`worker`: the module that serves `run`, see `commands/action_worker.py`.

    A process that has done a compile does the next one too: what it holds is a request, and its start costs as much CPU
    time as a small compile. Other actions have a process that begins with nothing.
    """

    def __init__(self, worker: str, store: str | None = None) -> None:
        self._worker, self._store = worker, store
        self._children: dict[str, Child] = {}
        self._idle: list[Child] = []
        self._stopped: set[str] = set()
        self._lock = threading.Lock()

    def run(self, action: Action) -> Result:
        """Run an action in a process; a compile whose binary is there already needs none."""
        if (found := made_before(action)) is not None:
            return found
        key = action.key
        child = self._take(action)
        try:
            made = child.call("run", description=action.described(), store=self._store)
        except EdgecError:
            child.close()
            if key in self._stopped:
                raise Stopped from None
            raise
        except BaseException:
            child.close()
            raise
        finally:
            with self._lock:
                self._children.pop(key, None)
                self._stopped.discard(key)
        if action.kind == "compile":
            with self._lock:
                self._idle.append(child)
        else:
            child.close()
        return made

    def close(self) -> None:
        """End the processes that wait for another compile."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def _take(self, action: Action) -> Child:
        """A process for an action, noted as running it."""
        with self._lock:
            child = self._idle.pop() if action.kind == "compile" and self._idle else None
        if child is None:
            child = Child(self._worker, what=f"the process of `{action.label}`")
        with self._lock:
            self._children[action.key] = child
        return child

    def stop(self, key: str) -> None:
        """End the process of an action."""
        with self._lock:
            child = self._children.get(key)
            if child is not None:
                self._stopped.add(key)
                child.kill()

    def pids(self) -> Mapping[str, int]:
        """The process of each running action, and those that wait for one."""
        with self._lock:
            waiting = {f"idle {number}": child.pid for number, child in enumerate(self._idle)}
            return waiting | {key: child.pid for key, child in self._children.items() if child.alive}
