"""What MNN is known to compute right, and who asks: ops by their attributes, linears by the format of their weight."""

from __future__ import annotations

import functools
from pathlib import Path

from ....compiler.emit.conformance.legality import Legality
from ....compiler.emit.conformance.table import RIGHT, ConformanceTable
from ....compiler.emit.refusals import refuse
from ..graph.op_classes import CLASSES, linear_use

TABLE = Path(__file__).with_name("table.json")
PLACE = "x86-64"  # the machine rows were run on; MNN's kernels for other processors are taken to agree


@functools.cache
def table() -> ConformanceTable:
    """The table of the package."""
    return ConformanceTable.load(TABLE)


@functools.cache
def legality() -> Legality:
    """The judge of uses by the package's table."""
    return Legality(PLACE, table().rows, CLASSES)


def check_format(linear: str, format: str) -> None:
    """Refuse unless MNN runs linears of this format (`int4 block 32 symmetric`) right in both memory modes."""
    if legality().problem(linear_use(linear, format)) is not None:
        rows = [row for row in table().rows if row.lowering == "linear" and row.verdict == RIGHT]
        names = sorted((str(row.shape["format"]) for row in rows), key=_finest_first)
        known = ", ".join(f"`{name}`" for name in names if name.split()[0] == format.split()[0])
        message = f"MNN is not known to run `{format}` right, the format of {{}}"
        refuse("E0707", message, linear, help=f"known at this width: {known or 'none'}", cause="format")


def _finest_first(format: str) -> tuple[int, bool]:
    """Small blocks, then large ones, then one scale per channel; of each the symmetric form first."""
    block = next((int(word) for word in format.split() if word.isdigit()), 1 << 30)
    return block, format.endswith("asymmetric")
