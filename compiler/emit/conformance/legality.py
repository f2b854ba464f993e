"""Legality of the target level: what is not known to be right is not emitted.

The rule, for a use of a lowering at a place (an architecture, a machine). Its class (`op_class.py`) holds the rows that
share its words. Then

    1  a row of exactly this shape decides, whatever the rest of its class says
    2  otherwise every row of the class must be right, and each number of the shape (tokens, rows, K, N, ...) must lie
       between the smallest and the largest measured one: `between` is taken, `beyond` is not

A class with one wrong row thus allows only the shapes that were measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .op_class import Cell, ClassRule, Use
from .table import RIGHT, Row

_SAY = {"wrong": "computes wrong numbers", "rejected": "refuses it", "crash": "crashes"}


class Legality:
    """Judges uses at one place by the rows that were measured there."""

    def __init__(self, place: str, rows: Iterable[Row], rule: ClassRule) -> None:
        self.place, self.rule = place, rule
        self._classes: dict[tuple, list[Row]] = {}
        for row in rows:
            if row.place == place:
                self._classes.setdefault(rule.class_of(row.lowering, row.shape.items()), []).append(row)

    def problem(self, use: Use) -> str | None:
        """Why this use is not known to be right; None when it is."""
        rows, shape = self._rows(use), dict(use.shape)
        if not rows:
            return f"was never run on {self.place} in this form ({described(shape)})"
        exact = next((row for row in rows if row.shape == shape), None)
        if exact is not None:
            return None if exact.verdict == RIGHT else self._bad(exact)
        bad = next((row for row in rows if row.verdict != RIGHT), None)
        if bad is not None:
            return f"{self._bad(bad)}; only the shapes that were run are taken"
        name = self._out_of_range(rows, shape)
        if name is None:
            return None
        measured = [float(row.shape[name]) for row in rows]
        least, most = min(measured), max(measured)
        return f"was run on {self.place} with {name} from {least:g} to {most:g}, here {name} is {shape[name]}"

    def unknown(self, use: Use) -> bool:
        """Whether a use is not known to be right, and no row says that it is wrong: a run of it would tell."""
        shape = dict(use.shape)
        return self.problem(use) is not None and all(row.shape != shape for row in self._rows(use))

    def out_of_range(self, use: Use) -> str | None:
        """Which number of the use is outside what was run, in a class that is right; None: that is not the problem."""
        rows, shape = self._rows(use), dict(use.shape)
        if not rows or any(row.verdict != RIGHT or row.shape == shape for row in rows):
            return None
        return self._out_of_range(rows, shape)

    def _rows(self, use: Use) -> list[Row]:
        return self._classes.get(self.rule.class_of(use.lowering, use.shape), [])

    def _out_of_range(self, rows: Sequence[Row], shape: Mapping[str, Cell]) -> str | None:
        for name in sorted(name for name in shape if self.rule.is_number(name)):
            measured = [float(row.shape[name]) for row in rows]
            if not min(measured) <= float(shape[name]) <= max(measured):
                return name
        return None

    def _bad(self, row: Row) -> str:
        said = row.figures_text() if row.verdict == "wrong" else row.reason
        why = f" ({said})" if said else ""
        return f"is known to fail on {self.place}: the engine {_SAY[row.verdict]} at {described(row.shape)}{why}"


def described(shape: Mapping[str, Cell]) -> str:
    """A shape in words: `rows 16, size 64`."""
    return ", ".join(f"{name} {value}" for name, value in shape.items()) or "any shape"
