"""What MNN is known to compute right, and who asks: ops by their attributes, linears by the format of their weight."""

from __future__ import annotations

import functools
import importlib.metadata
import math
from pathlib import Path

from ....compiler.emit.conformance.legality import Legality
from ....compiler.emit.conformance.local_table import LocalTable
from ....compiler.emit.conformance.table import RIGHT, ConformanceTable, Row
from ....compiler.emit.refusals import refuse
from ....compiler.files.code_digest import code_digest
from ..graph.op_classes import CLASSES, linear_use

TABLE = Path(__file__).with_name("table.json")
EXACT_BOUND = 1e-5  # memory = normal: float32 arithmetic on the stored weights
LOW_BOUND = 0.03
PLACE = "x86-64"  # the machine rows were run on; MNN's kernels for other processors are taken to agree


@functools.cache
def table() -> ConformanceTable:
    """The table of the package."""
    return ConformanceTable.load(TABLE)


@functools.cache
def _shipped() -> Legality:
    return Legality(PLACE, table().rows, CLASSES)


def legality() -> Legality:
    """The judge of uses by the package's table and by what was run on this machine."""
    rows = local_table().rows()
    return Legality(PLACE, table().rows + rows, CLASSES) if rows else _shipped()


def local_table() -> LocalTable:
    """Rows that were run on this machine, with this MNN and this lowering."""
    return LocalTable("mnn", PLACE, tool_versions(), code_digest("edgec.targets.mnn"), within)


def tool_versions() -> dict[str, str]:
    """Versions of the engine, the oracle and the schemas."""
    return {tool: importlib.metadata.version(tool) for tool in ("MNN", "onnxruntime", "onnx")}


def within(row: Row) -> bool:
    """Whether the figures of a row are those of a right one."""
    bounds = {"normal": EXACT_BOUND, "low": LOW_BOUND} if row.lowering == "linear" else {"error": EXACT_BOUND}
    return all(0 <= row.figures.get(name, math.nan) <= bound for name, bound in bounds.items())


def check_format(linear: str, format: str) -> None:
    """Refuse unless MNN runs linears of this format (`int4 block 32 symmetric`) right in both memory modes."""
    use = linear_use(linear, format)
    if _shipped().problem(use) is None:
        return
    judge = legality()
    if (problem := judge.problem(use)) is not None:
        rows = [row for row in table().rows if row.lowering == "linear" and row.verdict == RIGHT]
        names = sorted((str(row.shape["format"]) for row in rows), key=_finest_first)
        known = ", ".join(f"`{name}`" for name in names if name.split()[0] == format.split()[0])
        unproven = (use,) if judge.unknown(use) else ()
        why = "" if unproven else f": it {problem}"
        message = f"MNN is not known to run `{format}` right, the format of {{}}{why}"
        help = f"known at this width: {known or 'none'}"
        refuse("E0707", message, linear, help=help, cause="format", unproven=unproven)


def _finest_first(format: str) -> tuple[int, bool]:
    """Small blocks, then large ones, then one scale per channel; of each the symmetric form first."""
    block = next((int(word) for word in format.split() if word.isdigit()), 1 << 30)
    return block, format.endswith("asymmetric")
