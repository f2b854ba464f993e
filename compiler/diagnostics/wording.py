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


def of_any_layer(name: str) -> str:
    """`layers.3.mlp.up_proj` -> `layers.*.mlp.up_proj`: a glob for the same op in every layer."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def globs(names: Iterable[str]) -> str:
    """What follows `except` or `on` for all of them, whatever their layers: `"layers.*.up", "head"`."""
    return ", ".join(f'"{glob}"' for glob in dict.fromkeys(map(of_any_layer, names)))
