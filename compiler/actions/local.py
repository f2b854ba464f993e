"""Actions on this machine: each in a process of its own, which ends with the one that started it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping

from ..diagnostics.diagnostic import EdgecError
from ..emit.child_process import Child
from ..emit.fork_server import ForkServer
from .action import Action
from .executor import Stopped
from .perform import made_before
from .processes import resident
from .records import Result


def started(worker: str, what: str, server: ForkServer | None = None, env: Mapping[str, str] | None = None) -> Child:
    """A process of `worker`, forked if there is a server and it is well; `env`: the server's own has it too."""
    if server is not None:
        with contextlib.suppress(OSError, EOFError):
            return Child(worker, what=what, server=server)
    return Child(worker, what=what, env=env)


class LocalRunner:
    """`worker`: the module that serves `run`, see `commands/action_worker.py`; `server`: where its processes come from.

    The start of a process costs as much CPU time as a small compile, so they are forked from one that has imported
    what they need, where the system can do that.
    """

    def __init__(self, worker: str, store: str | None = None, server: ForkServer | None = None) -> None:
        self._worker, self._store, self._server = worker, store, server
        self._children: dict[str, Child] = {}
        self._stopped: set[str] = set()
        self._lock = threading.Lock()

    def run(self, action: Action) -> Result:
        """Run an action in a process; a compile whose binary is there already needs none."""
        if (found := made_before(action)) is not None:
            return found
        key = action.key
        with started(self._worker, f"the process of `{action.label}`", self._server) as child:
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

    def beside(self) -> int:
        """Resident bytes of the process that the others are forked from."""
        return resident(self._server.pid) if self._server is not None else 0
