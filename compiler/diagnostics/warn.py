"""Warnings of what is found while something else is done: shown by the command at hand, or by Python's `warnings`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

from .diagnostic import Diagnostic

_collections: list[list[Diagnostic]] = []
_listeners: list[Callable[[Diagnostic], None]] = []


class EdgecWarning(UserWarning):
    """A warning of edgec, in a program that calls it."""


def warn(diagnostic: Diagnostic) -> None:
    """Show a warning to whoever listens; without a listener it is an `EdgecWarning`."""
    for found in _collections:
        found.append(diagnostic)
    if not _listeners:
        warnings.warn(str(diagnostic), EdgecWarning, stacklevel=2)
    for listener in _listeners:
        listener(diagnostic)


@contextlib.contextmanager
def listening(listener: Callable[[Diagnostic], None]) -> Iterator[None]:
    """Give the warnings of the block to `listener`, each once: what is lowered twice warns twice."""
    told: set[Diagnostic] = set()

    def once(diagnostic: Diagnostic) -> None:
        if diagnostic not in told:
            told.add(diagnostic)
            listener(diagnostic)

    _listeners.append(once)
    try:
        yield
    finally:
        _listeners.remove(once)


@contextlib.contextmanager
def collected() -> Iterator[list[Diagnostic]]:
    """The warnings of the block, which are shown all the same; threads of other blocks may add theirs."""
    found: list[Diagnostic] = []
    _collections.append(found)
    try:
        yield found
    finally:
        _collections[:] = [one for one in _collections if one is not found]
