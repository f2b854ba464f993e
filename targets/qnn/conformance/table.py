"""The conformance table: what HTP is known to compute right, and what phones are reported to take.

`table.json` holds rows measured here (`emulated`, with the tool versions per architecture) and reports of
devices (`reported`, with their source). Both kinds of evidence stay apart: the emulator took formats that no phone
was ever reported to take.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("table.json")
VERSION = 1


@dataclass(frozen=True)
class Row:
    """One lowering at one shape on one architecture, run on the emulator."""

    arch: str
    lowering: str
    shape: dict[str, int | str | bool]
    verdict: str  # right | wrong | rejected | crash
    error: float
    cosine: float

    @property
    def key(self) -> tuple[Any, ...]:
        return self.arch, self.lowering, tuple(sorted(self.shape.items()))


@dataclass(frozen=True)
class Report:
    """What somebody says a device took (or not): public, read, not run by us."""

    format: str
    archs: tuple[str, ...]
    works: bool
    source: str
    note: str


@dataclass
class Table:
    rows: list[Row]
    tools: dict[str, dict[str, str]]  # architecture -> tool versions its rows were made with
    reports: list[Report]

    @classmethod
    def load(cls, path: Path = TABLE) -> Table:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["version"] != VERSION:
            raise ValueError(f"{path}: version {raw['version']}, expected {VERSION}")
        rows = []
        for arch, lowerings in raw["emulated"].items():
            for lowering, table in lowerings.items():
                names = table["columns"]
                for *shape, verdict, error, cosine in table["rows"]:
                    numbers = [math.nan if value is None else value for value in (error, cosine)]
                    rows.append(Row(arch, lowering, dict(zip(names, shape, strict=True)), verdict, *numbers))
        return cls(rows, raw["tools"], _reports(raw))

    def replace(self, arch: str, rows: Iterable[Row], tools: dict[str, str], partly: bool = False) -> None:
        """Put new rows in the place of the architecture's old ones; `partly` keeps those not run again."""
        new = list(rows)
        again = {row.lowering for row in new}
        self.rows = [r for r in self.rows if r.arch != arch or (partly and r.lowering not in again)] + new
        self.tools[arch] = tools

    def save(self, path: Path = TABLE) -> None:
        """One line per row, so that a change of the table reads as such."""
        emulated: dict[str, dict[str, Any]] = {}
        for row in sorted(self.rows, key=lambda r: (r.arch, r.lowering, list(r.shape.items()).__repr__())):
            columns = sorted(row.shape)
            table = emulated.setdefault(row.arch, {}).setdefault(row.lowering, {"columns": columns, "rows": []})
            numbers = [None if not math.isfinite(v) else float(f"{v:.4g}") for v in (row.error, row.cosine)]
            table["rows"].append([row.shape[name] for name in columns] + [row.verdict, *numbers])
        reported = [{**vars(report), "archs": list(report.archs)} for report in self.reports]
        raw = {"version": VERSION, "tools": self.tools, "reported": reported, "emulated": emulated}
        path.write_text(_lines(raw), encoding="utf-8")


def load_reports(path: Path = TABLE) -> list[Report]:
    """The reports alone: what the plan's checker reads, in a few milliseconds."""
    return _reports(json.loads(path.read_text(encoding="utf-8")))


def _reports(raw: dict[str, Any]) -> list[Report]:
    return [Report(**{**entry, "archs": tuple(entry["archs"])}) for entry in raw["reported"]]


def _lines(raw: dict[str, Any]) -> str:
    """JSON with each table row on a line of its own."""
    rows: list[str] = []

    def mark(value: Any) -> Any:
        if isinstance(value, list) and value and not isinstance(value[0], (list, dict)):
            rows.append(json.dumps(value))
            return f"@{len(rows) - 1}@"
        if isinstance(value, list):
            return [mark(item) for item in value]
        return {key: mark(item) for key, item in value.items()} if isinstance(value, dict) else value

    text = json.dumps(mark(raw), indent=1)
    for index, row in enumerate(rows):
        text = text.replace(f'"@{index}@"', row, 1)
    return text + "\n"
