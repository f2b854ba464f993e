"""Legality of the target level: what HTP is not known to compute right is not emitted (docs/conformance.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ....compiler.diagnostics.wording import count
from ....compiler.emit.conformance.legality import Legality, described
from ....compiler.emit.conformance.local_table import LocalTable
from ....compiler.emit.conformance.op_class import Use
from ....compiler.emit.conformance.table import ConformanceTable, Row
from ....compiler.files.code_digest import code_digest
from ..htp.chip import tool_versions
from ..lower.op_classes import CLASSES
from .bounds import within
from .table import table as own_table

_CODE = "edgec.targets.qnn.lower"


def legality(arch: int, table: ConformanceTable | None = None) -> Legality:
    """The judge of uses on one architecture: by the package's table and this machine's, unless a table is given."""
    rows: list[Row] = own_table().rows + local_table(arch).rows() if table is None else table.rows
    return Legality(f"v{arch}", rows, CLASSES)


def local_evidence(uses: Iterable[Use], arch: int) -> Iterator[str]:
    """Sentences on what only this machine's rows say to be right: which forms, and what was run of the largest."""
    shipped = Legality(f"v{arch}", own_table().rows, CLASSES)
    asked = {(use.lowering, use.shape): use for use in uses}
    local = [use for use in asked.values() if shipped.problem(use) is not None]
    if not local:
        return
    own = {(row.lowering, tuple(sorted(row.shape.items()))) for row in local_table(arch).rows()}
    names = sorted({use.lowering for use in local})
    yield (
        f"{count(len(local), 'form')} ({', '.join(names)}) known to be right from runs on the emulator for v{arch} on "
        "the machine that compiled this, not from edgec's own table"
    )
    for use in local:
        if (use.lowering, use.shape) not in own:
            yield f"`{use.node}` ({use.lowering}, {described(dict(use.shape))}) was run in parts, not whole"


def local_table(arch: int) -> LocalTable:
    """Rows of one architecture that were run on this machine, with these engines and this lowering."""
    return LocalTable("qnn", f"v{arch}", tool_versions(), code_digest(_CODE), within)
