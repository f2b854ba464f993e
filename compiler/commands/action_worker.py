"""The process that an action runs in: it loads the plan again, does one action, and ends with whoever started it."""

from __future__ import annotations

import os
import threading
import time

from ..actions.action import read_description
from ..actions.elsewhere import perform_with_store
from ..actions.records import Result
from ..driver import load_request
from ..emit.child_process import kill_children, serve
from ..files import scratch

_LOOK = 0.5  # seconds between looks whether the parent is there


def run(description: str, store: str | None = None) -> Result:
    """Do the action that a description is of; with a store, what it needs and leaves is there."""
    return perform_with_store(read_description(description, "the description"), store, load_request)


def end_with(parent: int) -> None:
    """End this process and its workers as soon as `parent` is no longer its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        kill_children()
        scratch.release_all()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


HANDLERS = {"run": run}

if __name__ == "__main__":
    end_with(os.getppid())
    serve(HANDLERS)
