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
    """`worker`: the module that serves `run`, see `commands/action_worker.py`."""

    def __init__(self, worker: str, store: str | None = None) -> None:
        self._worker, self._store = worker, store
        self._children: dict[str, Child] = {}
        self._stopped: set[str] = set()
        self._lock = threading.Lock()

    def run(self, action: Action) -> Result:
        """Run an action in a new process; a compile whose binary is there already needs none."""
        if (found := made_before(action)) is not None:
            return found
        key = action.key
        with Child(self._worker, what=f"the action `{action.label}`") as child:
            with self._lock:
                self._children[key] = child
            try:
                return child.call("run", description=action.described(), store=self._store)
            except EdgecError:
                if key in self._stopped:
                    raise Stopped from None
                raise
            finally:
                with self._lock:
                    self._children.pop(key, None)
                    self._stopped.discard(key)

    def stop(self, key: str) -> None:
        """End the process of an action."""
        with self._lock:
            child = self._children.get(key)
            if child is not None:
                self._stopped.add(key)
                child.kill()

    def pids(self) -> Mapping[str, int]:
        """The process of each running action."""
        with self._lock:
            return {key: child.pid for key, child in self._children.items() if child.alive}
