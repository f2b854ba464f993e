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
from ..shards import check_container
from ..sparse_store import least_rows

_OF_BUCKETS = {"tokens", "context", "rows"}  # numbers of a use that buckets decide
_ONE_BUCKET = "write `container = per_chip`: a binary for each chip, or one bucket"
_OF_MODELS = {"n", "k", "vocab", "size", "heads", "kv_heads", "head_dim"}  # those that nothing in a plan changes


def refused_graphs(request: TakesRequest) -> list[Refusal]:
    """Refusals of every graph of every part, each reported once for all buckets."""
    store, found, uses = WeightStore(), [], []
    rows = least_rows(request.options, request.parts)
    for part in request.parts:
        for _name, lowering in lowerings(part.graphs, store, rows):
            lowering.visit()
            found += lowering.refused
            uses += lowering.uses
    if (why := check_container(request.parts, request.options)) is not None:
        found.append(Refusal("E0644", why, request.module.name, _ONE_BUCKET, "shape"))
    return [*dict.fromkeys(found), *refused_uses(uses, Chip.of(request.device).arch)]


def refused_uses(uses: Iterable[Use], arch: int, table: ConformanceTable | None = None) -> list[Refusal]:
    """Every use that is not known to be right on v`arch`, once per node and lowering."""
    judge = legality(arch, table)
    problems: dict[tuple, str | None] = {}  # by lowering and shape, which most layers share
    found: dict[tuple[str, str], list[Use]] = {}  # by node and lowering: one use for each bucket
    for use in uses:
        kind = (use.lowering, use.shape)
        if kind not in problems:
            problems[kind] = judge.problem(use)
        if problems[kind] is not None:
            found.setdefault((use.node, use.lowering), []).append(use)
    return [_refusal(_worst(own, judge), own, judge) for own in found.values()]


def _worst(uses: list[Use], judge: Legality) -> Use:
    """The one to tell of: what is known to be wrong comes before what was never run."""
    return next((use for use in uses if not judge.unknown(use)), uses[0])


def _refusal(use: Use, uses: list[Use], judge: Legality) -> Refusal:
    outside = judge.out_of_range(use)
    ways = list(_ways(use, outside))
    help = ways[0] if len(ways) == 1 else ", ".join(ways[:-1]) + f", or {ways[-1]}"
    message = f"{{}} would become `{use.lowering}`, which {judge.problem(use)}"
    unproven = tuple(uses) if all(judge.unknown(one) for one in uses) else ()
    return Refusal("E0640", message, use.node, help, _cause(use, outside), unproven=unproven)


def _cause(use: Use, outside: str | None) -> Cause:
    """Which line the use follows from: that of the buckets, of a weight's format, else the place."""
    if outside in _OF_BUCKETS:
        return "shape"
    if outside in _OF_MODELS:
        return "place"
    return "format" if {"bits", "weights"} & dict(use.shape).keys() else "place"


def _ways(use: Use, outside: str | None) -> Iterator[str]:
    """What the user can do, as far as it changes this use; what most likely helps comes first.

    Where one number lies outside what was run, only what changes that number is offered.
    """
    shape = dict(use.shape)
    if outside in _OF_BUCKETS:
        yield "choose other buckets"
    yield "`place (device = cpu) on {on}`"
    if outside is None and shape.keys() & _OF_BUCKETS:
        yield "choose other buckets"
    if outside not in _OF_BUCKETS | _OF_MODELS and shape.keys() & {"bits", "weights"}:
        yield "another weight format"
    if outside is None and use.lowering.startswith(("u8.", "u16.")):
        yield "leave its activations in fp16"
