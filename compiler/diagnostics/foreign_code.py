"""Code that is not edgec's, the files that a plan uses and installed plug-ins: whatever it does is told as its fault.

It prints on stderr, so that stdout stays edgec's; what it raises, also what is no `Exception`, comes out as one
`ForeignFailure`; it cannot end the process. Only Ctrl-C and signals pass through.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn


class ForeignFailure(Exception):
    """What foreign code raised, in `error`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(described(error))
        self.error = error


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """Run the block, which calls foreign code; an EdgecError of its own passes through too."""
    from .diagnostic import EdgecError

    own = os.getpid()
    try:
        with _fenced:
            yield
    except (EdgecError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ForeignFailure(error) from error
    finally:
        if os.getpid() != own:  # it forked: the rest of the command is done once, by its parent
            os._exit(0)


def described(error: BaseException) -> str:
    """`Type: text` of any exception, also of one whose text cannot be had."""
    name = type.__dict__["__name__"].__get__(type(error))  # a metaclass may answer `__name__` in its own way
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"{name}, whose `__str__` raises"
    return f"{name}: {text}" if text else name


class _Fenced:
    """While any thread is in foreign code, what it prints goes to stderr, and `os._exit` raises.

    Both are set for the whole process, so the first thread to come sets them and the last to leave takes them back.
    `os._exit` would end edgec without a word, with a status of its choice; in processes forked from it, it may.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._own, self._exit, self._stdout = 0, os._exit, sys.stdout

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._own, self._exit, self._stdout = os.getpid(), os._exit, sys.stdout
                os._exit, sys.stdout = self._refuse, sys.stderr
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                os._exit, sys.stdout = self._exit, self._stdout

    def _refuse(self, status: int) -> NoReturn:
        if os.getpid() != self._own:
            self._exit(status)
        raise SystemExit(f"os._exit({status})")


_fenced = _Fenced()
