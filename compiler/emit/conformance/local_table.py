"""Rows that were run on this machine, beside the table that edgec ships: one note of the cache for each place.

    key = hash(target, place, versions of the engine's packages, the target's own code)

So another engine build, and another lowering, begin with no rows. A row is input like any other: one whose verdict does
not follow from its figures, or that no run could have written, is not believed, and what it would say is run again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...files import cache as files
from .table import RIGHT, VERDICTS, Row

KIND = "conformance"


@dataclass(frozen=True)
class LocalTable:
    """The rows of one place. `believe`: whether a row's verdict follows from its figures."""

    target: str
    place: str
    tools: Mapping[str, str]
    code: str  # digest of the code that lowers
    believe: Callable[[Row], bool]

    @property
    def key(self) -> str:
        """Under which the cache has it."""
        text = json.dumps([self.target, self.place, sorted(self.tools.items()), self.code])
        return hashlib.sha256(text.encode()).hexdigest()

    def rows(self) -> list[Row]:
        """The rows that can be believed; none where there is no table."""
        text = files.read_note(KIND, self.key)
        try:
            raw = json.loads(text) if text else []
        except ValueError:
            return []
        return [row for row in map(self._row, raw if isinstance(raw, list) else []) if row is not None]

    def keep(self, new: Iterable[Row]) -> None:
        """Add rows, each in the place of one of the same shape; OSError where the cache cannot be written."""
        known = {row.key: row for row in self.rows()} | {row.key: row for row in new}
        raw = [[row.lowering, row.shape, row.verdict, _finite(row.figures), row.reason] for row in known.values()]
        files.write_note(KIND, self.key, json.dumps(raw))

    def _row(self, raw: Any) -> Row | None:
        match raw:
            case [str(lowering), dict(shape), str(verdict), dict(figures), str(reason)] if verdict in VERDICTS:
                pass
            case _:
                return None
        if not all(isinstance(value, (int, float, str)) for value in shape.values()):
            return None
        numbers = {name: math.nan if value is None else value for name, value in figures.items()}
        if not all(isinstance(value, (int, float)) for value in numbers.values()):
            return None
        row = Row(self.place, lowering, shape, verdict, numbers, reason)
        return row if verdict != RIGHT or self.believe(row) else None


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def stamp() -> str:
    """What changes when any local table does: for whoever remembers an answer that was given by one.

    By content: the time of a note is that of its last use.
    """
    folder = files.cache_root() / KIND
    found = sorted((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in folder.rglob("*.note"))
    return hashlib.sha256(repr(found).encode()).hexdigest()
