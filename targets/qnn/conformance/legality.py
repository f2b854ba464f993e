"""Legality of the target level: what HTP is not known to compute right is not emitted (docs/conformance.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ....compiler.diagnostics.diagnostic import Diagnostic, PlanError
from ....compiler.emit.conformance.legality import Legality
from ....compiler.emit.conformance.op_class import Use
from ....compiler.emit.conformance.table import ConformanceTable
from ..lower.op_classes import CLASSES
from .table import table as own_table


def legality(arch: int, table: ConformanceTable | None = None) -> Legality:
    """The judge of uses on one architecture, by the package's table unless another is given."""
    return Legality(f"v{arch}", (table or own_table()).rows, CLASSES)


def check_uses(uses: Iterable[Use], arch: int, table: ConformanceTable | None = None) -> None:
    """Raise a PlanError that names every use that is not known to be right."""
    judge = legality(arch, table)
    found: dict[tuple[str, str], Diagnostic] = {}
    for use in dict.fromkeys(uses):
        problem = judge.problem(use)
        if problem is not None:  # one bucket is enough to say it
            found.setdefault((use.node, use.lowering), _diagnostic(use, problem, judge.place))
    if found:
        raise PlanError(*found.values())


def _diagnostic(use: Use, problem: str, arch: str) -> Diagnostic:
    text = f"`{use.node}` would become `{use.lowering}`, which {problem}"
    *ways, last = _ways(use, arch)
    return Diagnostic("E0640", text, help=", ".join(ways) + f", or {last}")


def _ways(use: Use, arch: str) -> Iterator[str]:
    """What the user can do, as far as it changes this use."""
    shape = dict(use.shape)
    yield f'`place (device = cpu) on "{use.node}"`'
    if shape.keys() & {"tokens", "context", "rows"}:
        yield "choose other buckets"
    if shape.keys() & {"bits", "weights"}:
        yield "another weight format"
    if use.lowering.startswith(("u8.", "u16.")):
        yield "leave its activations in fp16"
    yield f"extend the table: `python -m edgec.targets.qnn.conformance --arch {arch}`"
