"""The beginning and the end of a process: what killed ones left is removed, and nothing keeps this one from ending."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

from ..files import cache, scratch


def remove_leftovers() -> None:
    """Remove what commands that were killed left among the temporary files and in the cache."""
    with contextlib.suppress(OSError):
        scratch.sweep_temporary()
        cache.remove_scratch()


def leave(code: int) -> int:
    """The exit code of the process; where threads are still at work, it ends here with this code.

    They are models that compile beside an interrupted one, or what a plan's used file began.
    """
    others = [one for one in threading.enumerate() if not one.daemon and one is not threading.current_thread()]
    if code in (129, 130, 143) or others:
        workers = sys.modules.get("edgec.compiler.emit.child_process")
        if workers is not None:
            workers.kill_children()
    scratch.release_all()
    if not others:
        return code
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
