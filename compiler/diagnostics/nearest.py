"""The name somebody meant: the nearest of the known ones, within two edits (a swap of neighbours is one)."""

from __future__ import annotations

from collections.abc import Iterable

MAX_EDITS = 2


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name nearest to `name`, None when all are too far (a short name has to be nearer).

    Case, `_` and `-` do not count: `snapdragon8gen3` is nearest to `snapdragon_8_gen_3`.
    """
    folded = _fold(name)
    limit = min(MAX_EDITS, len(folded) // 2)
    best: tuple[int, str] | None = None
    for candidate in known:
        other = _fold(candidate)
        if abs(len(other) - len(folded)) > limit:
            continue
        distance = _edits(folded, other)
        if distance <= limit and (best is None or distance < best[0]):
            best = (distance, candidate)
    return best[1] if best else None


def nearest_help(name: str, known: Iterable[str], noun: str) -> str | None:
    """A help line naming the nearest known name, None without one."""
    found = nearest(name, known)
    article = "an" if noun[0] in "aeiou" else "a"
    return f"there is {article} {noun} named `{found}`" if found else None


def _fold(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _edits(a: str, b: str) -> int:
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, previous, row = row, before, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, previous[j - 2] + 1)
            row.append(cost)
    return row[-1]
