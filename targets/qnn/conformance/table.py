"""Where the table of HTP is: rows measured on the emulator per architecture, and what phones are reported to take."""

from __future__ import annotations

import functools
from pathlib import Path

from ....compiler.emit.conformance import table as tables

TABLE = Path(__file__).with_name("table.json")


@functools.cache
def table() -> tables.ConformanceTable:
    """The table of the package."""
    return tables.ConformanceTable.load(TABLE)


def load_reports() -> list[tables.DeviceReport]:
    """The reports alone: what the plan's checker reads, in a few milliseconds."""
    return tables.load_reports(TABLE)
