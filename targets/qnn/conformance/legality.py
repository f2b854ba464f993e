"""Legality of the target level: what HTP is not known to compute right is not emitted (docs/conformance.md)."""

from __future__ import annotations

from ....compiler.emit.conformance.legality import Legality
from ....compiler.emit.conformance.table import ConformanceTable
from ..lower.op_classes import CLASSES
from .table import table as own_table


def legality(arch: int, table: ConformanceTable | None = None) -> Legality:
    """The judge of uses on one architecture, by the package's table unless another is given."""
    return Legality(f"v{arch}", (table or own_table()).rows, CLASSES)
