"""Words that messages share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_QUOTED = re.compile(r"`[^`]*`")


def join_or(parts: Iterable[str], word: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`."""
    *head, last = list(parts) or [""]
    return f"{', '.join(head)} {word} {last}" if head else last


def count(number: int, noun: str) -> str:
    """`1 part`, `2 parts`, `2 entries`."""
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else several}"


def some_of(named: Sequence[str], most: int) -> str:
    """The first `most` of them, and how many there are more: `a, b and 3 more`."""
    more = f" and {len(named) - most} more" if len(named) > most else ""
    return ", ".join(named[:most]) + more


def quoted(names: Iterable[str]) -> list[str]:
    """Each name as a message shows it."""
    return [f"`{name}`" for name in names]


def of_any_layer(name: str) -> str:
    """`layers.3.mlp.up_proj` -> `layers.*.mlp.up_proj`: a glob for the same op in every layer."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def globs(names: Iterable[str]) -> str:
    """What follows `except` or `on` for all of them, whatever their layers: `"layers.*.up", "head"`."""
    return ", ".join(f'"{glob}"' for glob in dict.fromkeys(map(of_any_layer, names)))


def of_all_layers(notes: Iterable[str]) -> list[str]:
    """What is said of the same op in several layers once, with their number, where it was said first."""
    notes = list(notes)
    said = Counter(map(_of_any_layer, notes))
    made = (note if said[_of_any_layer(note)] == 1 else _of_any_layer(note) for note in notes)
    return [f"{text} ({said[text]} times)" if said[text] > 1 else text for text in dict.fromkeys(made)]


def _of_any_layer(note: str) -> str:
    return _QUOTED.sub(lambda name: of_any_layer(name[0]) if " " not in name[0] else name[0], note)
