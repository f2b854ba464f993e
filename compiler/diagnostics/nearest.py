"""The name somebody meant: the nearest of the known ones, within two edits (a swap of neighbours is one)."""

from __future__ import annotations

from collections.abc import Iterable

MAX_EDITS = 2
MAX_SHOWN = 4


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name nearest to `name`, the first of several; None when all are too far."""
    return next(iter(all_nearest(name, known)), None)


def all_nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names nearest to `name`, all with the same number of edits.

    Case, `_` and `-` do not count: `snapdragon8gen3` is nearest to `snapdragon_8_gen_3`. A name of up to four letters
    may have one edit, two if one name contains the other (`head`, `lm_head`).
    """
    folded = _fold(name)
    found: dict[int, list[str]] = {}
    for candidate in known:
        other = _fold(candidate)
        short = len(folded) < 5 and folded not in other and other not in folded
        limit = min(MAX_EDITS, len(folded) // 2, 1 if short else MAX_EDITS)
        if abs(len(other) - len(folded)) <= limit and (distance := _edits(folded, other, limit)) <= limit:
            found.setdefault(distance, []).append(candidate)
    return found[min(found)] if found else []


def nearest_help(name: str, known: Iterable[str], noun: str) -> str | None:
    """A help line naming the nearest known names, None without one."""
    found = all_nearest(name, known)[:MAX_SHOWN]
    if len(found) > 1:
        return f"there are {noun}s named {', '.join(f'`{one}`' for one in found)}"
    article = "an" if noun[0] in "aeiou" else "a"
    return f"there is {article} {noun} named `{found[0]}`" if found else None


def same_word(name: str, others: Iterable[str]) -> bool:
    """Whether `name` is one of `others` but for case, `_` and `-`."""
    return _fold(name) in map(_fold, others)


def _fold(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _edits(a: str, b: str, limit: int) -> int:
    """Edits from `a` to `b`; any number above `limit` where it takes more."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, previous, row = row, before, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, previous[j - 2] + 1)
            row.append(cost)
        if min(row) > limit and min(before) > limit:  # what follows is made of these two
            break
    return row[-1]
