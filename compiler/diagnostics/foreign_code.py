"""Code that is not edgec's, the files that a plan uses and installed plug-ins: whatever it does is told as its fault.

It prints on stderr, so that stdout stays edgec's; what it raises, also what is no `Exception`, comes out as one
`ForeignFailure`; it cannot end the process. Only Ctrl-C and signals pass through.
"""

from __future__ import annotations

import contextlib
import os
import sys
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
        with contextlib.redirect_stdout(sys.stderr), _no_exit():
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


@contextlib.contextmanager
def _no_exit() -> Iterator[None]:
    """`os._exit` would end edgec without a word, with a status of its choice; in processes forked from it, it may."""
    own, real = os.getpid(), os._exit

    def refuse(status: int) -> NoReturn:
        if os.getpid() != own:
            real(status)
        raise SystemExit(f"os._exit({status})")

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = real
