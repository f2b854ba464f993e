"""Words that messages share."""

from __future__ import annotations

from collections.abc import Iterable


def join_or(parts: Iterable[str], word: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`."""
    *head, last = list(parts) or [""]
    return f"{', '.join(head)} {word} {last}" if head else last


def count(number: int, noun: str) -> str:
    """`1 part`, `2 parts`, `2 entries`."""
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else several}"
