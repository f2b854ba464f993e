"""What of a dry module's graphs HTP has no form for, or is not known to compute right: the lowering, and its uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ....compiler.emit.capabilities import Cause, Refusal
from ....compiler.emit.conformance.legality import Legality
from ....compiler.emit.conformance.op_class import Use
from ....compiler.emit.conformance.table import ConformanceTable
from ....compiler.emit.target import TakesRequest
from ..conformance.legality import legality
from ..htp.chip import Chip
from ..lower.builder import WeightStore
from ..lower.lower_graphs import lowerings

_OF_BUCKETS = {"tokens", "context", "rows"}  # numbers of a use that buckets decide


def refused_graphs(request: TakesRequest) -> list[Refusal]:
    """Refusals of every graph of every part, each reported once for all buckets."""
    store, found, uses = WeightStore(), [], []
    for part in request.parts:
        for _name, lowering in lowerings(part.graphs, store):
            lowering.visit()
            found += lowering.refused
            uses += lowering.uses
    return [*dict.fromkeys(found), *refused_uses(uses, Chip.of(request.device).arch)]


def refused_uses(uses: Iterable[Use], arch: int, table: ConformanceTable | None = None) -> list[Refusal]:
    """Every use that is not known to be right on v`arch`, once per node and lowering."""
    judge = legality(arch, table)
    problems: dict[tuple, tuple[str, Cause] | None] = {}  # by lowering and shape, which most layers share
    found: dict[tuple[str, str], Refusal] = {}
    for use in uses:
        kind = (use.lowering, use.shape)
        if kind not in problems:
            problem = judge.problem(use)
            problems[kind] = None if problem is None else (problem, _cause(use, judge))
        problem = problems[kind]
        if problem is not None and (use.node, use.lowering) not in found:
            found[use.node, use.lowering] = _refusal(use, *problem, judge.place)
    return list(found.values())


def _refusal(use: Use, problem: str, cause: Cause, arch: str) -> Refusal:
    *ways, last = _ways(use, cause, arch)
    help = ", ".join(ways) + f", or {last}"
    return Refusal("E0640", f"{{}} would become `{use.lowering}`, which {problem}", use.node, help, cause)


def _cause(use: Use, judge: Legality) -> Cause:
    """Which line the use follows from: that of the buckets, of a weight's format, else the place."""
    if judge.out_of_range(use) in _OF_BUCKETS:
        return "shape"
    return "format" if {"bits", "weights"} & dict(use.shape).keys() else "place"


def _ways(use: Use, cause: Cause, arch: str) -> Iterator[str]:
    """What the user can do, as far as it changes this use; what most likely helps comes first."""
    shape = dict(use.shape)
    buckets = "choose other buckets" if shape.keys() & _OF_BUCKETS else None
    if buckets and cause == "shape":
        yield buckets
    yield "`place (device = cpu) on {on}`"
    if buckets and cause != "shape":
        yield buckets
    if shape.keys() & {"bits", "weights"}:
        yield "another weight format"
    if use.lowering.startswith(("u8.", "u16.")):
        yield "leave its activations in fp16"
    yield f"extend the table: `python -m edgec.targets.qnn.conformance --arch {arch}`"
