"""The conformance table of a target: rows that were run here, and reports of devices.

`emulated` rows were measured by us on an engine or its emulator, with the versions of the tools per place (an
architecture, a machine). `reported` is what somebody says in public that a device takes or does not, with the source.
Both kinds of evidence stay apart: an emulator may take what no device was ever reported to take.

    {"version": 2, "tools": {place: {tool: version}}, "reported": [...], "emulated": {place: {lowering: grid}}}
    grid = {"columns": [...], "figures": [...], "rows": [[*columns, verdict, *figures], ...]}

A cell of a row is null where the row's shape lacks the column, a figure where it was not finite.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .op_class import Cell

VERSION = 2
RIGHT = "right"
SECONDS = "seconds"  # a figure that is none of the numbers': how long the run took
VERDICTS = (RIGHT, "rejected", "wrong", "crash")  # from the mildest to the worst


@dataclass(frozen=True)
class Row:
    """One lowering at one shape, run at one place. `figures`: how far it was off, by the measure's name.

    `reason` is what an engine said that refused it; the shipped table has none.
    """

    place: str
    lowering: str
    shape: dict[str, Cell]
    verdict: str
    figures: dict[str, float] = field(default_factory=dict)
    reason: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """What a table holds one row for."""
        return self.place, self.lowering, tuple(sorted(self.shape.items()))

    def figures_text(self) -> str:
        """`error 0.31, cosine 0.82`: how far it was off, as far as that is a number."""
        shown = {name: value for name, value in self.figures.items() if name != SECONDS and not math.isnan(value)}
        return ", ".join(f"{name} {value:.3g}" for name, value in shown.items())


@dataclass(frozen=True)
class DeviceReport:
    """What somebody says a device takes (or not): public, read, not run by us."""

    format: str
    archs: tuple[str, ...]
    works: bool
    source: str
    note: str


@dataclass
class ConformanceTable:
    """Rows and reports of one target."""

    rows: list[Row] = field(default_factory=list)
    tools: dict[str, dict[str, str]] = field(default_factory=dict)  # place -> tool versions its rows were made with
    reports: list[DeviceReport] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> ConformanceTable:
        """Read a table; ValueError when the file is of another version."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["version"] != VERSION:
            raise ValueError(f"{path}: version {raw['version']}, expected {VERSION}")
        rows = [
            row
            for place, lowerings in raw["emulated"].items()
            for lowering, table in lowerings.items()
            for row in _rows(place, lowering, table)
        ]
        return cls(rows, raw["tools"], _reports(raw))

    def put(
        self, place: str, rows: Iterable[Row], tools: dict[str, str], replaces: Callable[[Row], bool] | None = None
    ) -> None:
        """Add new rows of a place. Old ones with the same key go; so do those of the place that `replaces` names."""
        new = {row.key: row for row in rows}
        old = [row for row in self.rows if row.key not in new]
        self.rows = [r for r in old if r.place != place or not (replaces and replaces(r))] + list(new.values())
        self.tools[place] = tools

    def save(self, path: Path) -> None:
        """Write the table, one line per row, so that a change of it reads as such."""
        emulated: dict[str, dict[str, list[Row]]] = {}
        for row in sorted(self.rows, key=lambda r: (r.place, r.lowering, repr(sorted(r.shape.items())))):
            emulated.setdefault(row.place, {}).setdefault(row.lowering, []).append(row)
        raw = {
            "version": VERSION,
            "tools": self.tools,
            "reported": [{**vars(report), "archs": list(report.archs)} for report in self.reports],
            "emulated": {
                place: {lowering: _grid(rows) for lowering, rows in lowerings.items()}
                for place, lowerings in emulated.items()
            },
        }
        path.write_text(_lines(raw), encoding="utf-8")

    def summary(self) -> dict[str, dict[str, int]]:
        """Place -> verdict -> how many rows have it."""
        found: dict[str, dict[str, int]] = {}
        for row in self.rows:
            counts = found.setdefault(row.place, dict.fromkeys(VERDICTS, 0))
            counts[row.verdict] += 1
        return found


def load_reports(path: Path) -> list[DeviceReport]:
    """The reports alone: what the plan's checker reads, in a few milliseconds."""
    return _reports(json.loads(path.read_text(encoding="utf-8")))


def _reports(raw: dict[str, Any]) -> list[DeviceReport]:
    return [DeviceReport(**{**entry, "archs": tuple(entry["archs"])}) for entry in raw["reported"]]


def _rows(place: str, lowering: str, table: dict[str, Any]) -> Iterable[Row]:
    columns, figures = table["columns"], table["figures"]
    for cells in table["rows"]:
        values, verdict, found = cells[: len(columns)], cells[len(columns)], cells[len(columns) + 1 :]
        shape = {name: value for name, value in zip(columns, values, strict=True) if value is not None}
        numbers = {name: math.nan if v is None else float(v) for name, v in zip(figures, found, strict=True)}
        yield Row(place, lowering, shape, verdict, numbers)


def _grid(rows: list[Row]) -> dict[str, Any]:
    columns = sorted({name for row in rows for name in row.shape})
    figures = list(dict.fromkeys(name for row in rows for name in row.figures))
    cells = [
        [*(row.shape.get(name) for name in columns), row.verdict, *(_figure(row, name) for name in figures)]
        for row in rows
    ]
    return {"columns": columns, "figures": figures, "rows": cells}


def _figure(row: Row, name: str) -> float | None:
    value = row.figures.get(name, math.nan)
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _lines(raw: dict[str, Any]) -> str:
    """JSON with each list of plain values on a line of its own."""
    rows: list[str] = []

    def mark(value: Any) -> Any:
        if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
            rows.append(json.dumps(value))
            return f"@{len(rows) - 1}@"
        if isinstance(value, list):
            return [mark(item) for item in value]
        return {key: mark(item) for key, item in value.items()} if isinstance(value, dict) else value

    text = json.dumps(mark(raw), indent=1)
    first, *parts = text.split('"@')
    cut = [part.partition('@"') for part in parts]
    return first + "".join(rows[int(index)] + rest for index, _, rest in cut) + "\n"
