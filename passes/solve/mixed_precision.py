"""Mixed precision: a format for each linear, so that the model answers as in float as far as so many bits allow.

    minimise  sum_i d_i(f_i)      subject to  sum_i bits_i(f_i) <= budget * weights

d_i(f) is measured: the mean KL divergence of the model's next-token distribution when linear i alone is in format f,
solved by gptq, on a few calibration windows. Each decoder block's variants (its linears times the formats) are run
through the blocks behind it together, so that one block's weights are held at a time. The choice is exact for these
figures: dynamic programming over bits, scales and zeros included.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from ...compiler.calibration import windows as calibrate
from ...compiler.calibration.cores import in_order, one_thread_an_operation
from ...compiler.calibration.time_left import TimeLeft, duration
from ...compiler.calibration.torch_graph import Constants, Segment, run
from ...compiler.diagnostics.diagnostic import PlanError, fail
from ...compiler.files import cache
from ...compiler.ir.module import Module
from ...compiler.ir.sparsity import SPARSITY
from ...compiler.ir.weight_format import WeightFormat
from ...compiler.ir.weights import Weight
from ...compiler.pipeline.pass_interface import FiguresTable, Scope
from ..quantization.blocks import unmet
from . import gptq
from . import solution_cache as store
from .integer_grid import kind_of
from .kept import kept_of
from .residual_streams import Moments, ResidualStreams

WINDOWS = (16, 64)  # that divergence is measured on, at least and at most
_ROOM = 1 << 29  # bytes that the variants' streams may take beyond the least number of windows
_MORE = 1.3  # times the runs through the blocks: solving the variants takes time too
_UNITS = 1 << 18  # steps of the budget at most

Sensitivities = dict[str, dict[WeightFormat, float]]
Variant = tuple[str, WeightFormat]  # one linear in one format, the others in float


def choose(
    table: Sensitivities, shapes: Mapping[str, Sequence[int]], budget: float, scope: Scope
) -> dict[str, WeightFormat]:
    """The formats of least summed divergence within `budget` bits a weight."""
    weights = sum(math.prod(shapes[name]) for name in table)
    sizes = {
        name: [_stored(shapes[name], f, scope) + 8 * _beside(f, row, scope) for f in row] for name, row in table.items()
    }
    least = sum(min(row) for row in sizes.values())
    if least > budget * weights:
        raise PlanError(unmet(budget, least / weights, scope.origin))
    picked = _least(sizes, {name: list(row.values()) for name, row in table.items()}, int(budget * weights) - least)
    return {name: list(table[name])[i] for name, i in picked.items()}


def _stored(shape: Sequence[int], format_: WeightFormat, scope: Scope) -> int:
    return format_.stored_in(scope.stored_width(format_.bits, format_.positive)).size(shape[0], math.prod(shape[1:]))


def _beside(format_: WeightFormat, row: Iterable[WeightFormat], scope: Scope) -> int:
    """Bytes beside the weight that the format takes more than the frugalest: what every choice takes is no choice."""
    taken = {f: scope.widths.get(scope.stored_width(f.bits, f.positive), 0) for f in row}
    return taken[format_] - min(taken.values())


def _least(sizes: Mapping[str, list[int]], costs: Mapping[str, list[float]], room: int) -> dict[str, int]:
    """The index of each item's option: least summed cost, sizes beyond each item's smallest within `room`.

    best[r] = least cost of the items so far with r units of room. Sizes are multiples of a unit, so that nothing is
    rounded; only where that gives more than `_UNITS` steps is the unit larger and sizes are rounded up.
    """
    extra = {name: [size - min(row) for size in row] for name, row in sizes.items()}
    unit = math.gcd(*(size for row in extra.values() for size in row)) or 1
    unit = max(unit, -(-room // _UNITS))
    steps = room // unit
    best, picks = np.zeros(steps + 1), []
    for name, row in extra.items():
        trial = np.full((len(row), steps + 1), np.inf)
        taken = [-(-size // unit) for size in row]
        for i, (step, cost) in enumerate(zip(taken, costs[name], strict=True)):
            if step <= steps:
                trial[i, step:] = best[: steps + 1 - step] + cost
        picks.append((name, taken, trial.argmin(0)))
        best = trial.min(0)
    found, at = {}, steps
    for name, taken, pick in reversed(picks):
        found[name] = int(pick[at])
        at -= taken[found[name]]
    return {name: found[name] for name in sizes}


def tell(
    table: Sensitivities, chosen: Mapping[str, WeightFormat], shapes: Mapping[str, Sequence[int]], scope: Scope
) -> None:
    """What was chosen, in a note, and what each format of each linear would cost, in a table of the report."""
    weights = sum(math.prod(shapes[name]) for name in chosen)
    bits = sum(_stored(shapes[name], f, scope) for name, f in chosen.items()) / weights
    counted = Counter(map(str, chosen.values()))
    kinds = ", ".join(f"{counted[str(f)]} in {f}" for f in next(iter(table.values())) if counted[str(f)])
    scope.note(f"auto: {bits:.3g} bits a weight, scales included: {kinds}")
    formats = list(next(iter(table.values())))
    rows = [(name, *(f"{1000 * row[f]:.3f}" for f in formats)) for name, row in table.items()]
    marked = [1 + formats.index(chosen[name]) for name in table]
    title = "sensitivity: divergence in thousandths when this linear alone is in a format; the chosen ones are marked"
    scope.table(FiguresTable(title, ("linear", *map(str, formats)), tuple(rows), tuple(marked)))


@one_thread_an_operation()
def sensitivities(
    module: Module, sources: Mapping[str, Weight], formats: Sequence[WeightFormat], scope: Scope, seconds: float = 0.0
) -> Sensitivities:
    """Linear -> format -> divergence; from the cache if these windows, weights and formats were measured before.

    With `seconds` on as few windows as fit into that time, which is noted.
    """
    if scope.calibration is None:
        fail("E0454", "`weights = auto` needs a `calibration` block, but the plan has none", scope.origin)
    ids = calibrate.windows(scope.calibration, module)
    parts = [f"{name}:{store.digest(weight)}{SPARSITY.get(weight) or ''}" for name, weight in sources.items()]
    key = store.key("sensitivity 3", calibrate.digest(ids), *parts, *map(repr, formats), repr(seconds))

    def build(folder: Path) -> None:
        measure = _Measure(module, sources, formats, scope, ids, seconds)
        found = measure.table()
        listed = {name: [row[f] for f in formats] for name, row in found.items()}
        windows = [measure.windows, measure.enough]
        (folder / "table.json").write_text(json.dumps({"rows": listed, "windows": windows}))

    folder = cache.make("sensitivity", key, build)
    held = json.loads((folder / "table.json").read_text())
    measured, enough = held["windows"]
    if measured < enough:
        scope.note(f"auto: measured on {measured} windows instead of {enough}, to end within {duration(seconds)[6:]}")
    return {name: dict(zip(formats, row, strict=True)) for name, row in held["rows"].items()}


class _Measure:
    def __init__(
        self,
        module: Module,
        sources: Mapping[str, Weight],
        formats: Sequence[WeightFormat],
        scope: Scope,
        ids: np.ndarray,
        seconds: float,
    ) -> None:
        self.sources, self.formats, self.scope, self.seconds = sources, formats, scope, seconds
        self.flow = ResidualStreams(module, sources)
        self.flow.start(ids, {})
        self._at: Segment | None = None
        self._kept = Constants()
        self.windows = self.enough = self._room(ids)

    def _room(self, ids: np.ndarray) -> int:
        """As many windows as there is room for: a block's variants are all held."""
        linears = max(len(self._linears(s)) for s in self.flow.segments[1:])
        window = self.flow.reference[0][0].nbytes * linears * len(self.formats)
        return min(len(ids), max(WINDOWS[0], min(WINDOWS[1], _ROOM // window)))

    def _linears(self, segment: Segment) -> list[str]:
        return [name for _, names in self.flow.groups(segment) for name in names]

    def _fit(self, blocks: Sequence[Segment], head: Segment, final: list[torch.Tensor], walked: float) -> None:
        """Fewer windows if all would take longer than is allowed; `walked` seconds took one walk through the blocks."""
        begun = time.perf_counter()
        torch.log_softmax(self._run(head, self._held(head), final[0][:1]), -1)
        answer = time.perf_counter() - begun
        step = walked / len(blocks) / self.windows
        variants = [len(self.formats) * len(self._linears(one)) for one in blocks]
        one = sum(n * (step * (len(blocks) - at) + answer) for at, n in enumerate(variants))
        one += len(self.formats) * len(self._linears(head)) * answer
        self.windows = max(1, min(self.windows, int(self.seconds / (_MORE * one))))

    def _probes(self, streams: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Copies of the first windows, batch by batch."""
        batch = len(streams[0])
        return [streams[at // batch][: self.windows - at].clone() for at in range(0, self.windows, batch)]

    def table(self) -> Sensitivities:
        *blocks, head = self.flow.segments[1:]
        begun = time.perf_counter()
        final = self._final(blocks)
        if self.seconds:
            self._fit(blocks, head, final, time.perf_counter() - begun)
            final = self._probes(final)
        found: Sensitivities = {}
        # a block's variants go through all blocks behind it
        clock = TimeLeft(self.scope.progress, "sensitivity", [len(blocks) - at + 1.0 for at in range(len(blocks))])
        for at, segment in enumerate(blocks, start=1):
            clock.tick(segment.name)
            variants = self._variants(segment)
            self.flow.advance(segment, {})
            for i, follower in enumerate(blocks[at:], start=1):
                for streams in variants.values():
                    self._push(follower, self._held(follower), streams)
                clock.within(i / (len(blocks) - at + 1))
            made = self._divergences(head, final, variants, self._held(head))
            variants.clear()  # the next block's need the room
            for (name, format_), divergence in made.items():
                found.setdefault(name, {})[format_] = divergence
        for name, format_, constants in self._exchanged(head):
            made = self._divergences(head, final, {(name, format_): final}, constants)
            found.setdefault(name, {})[format_] = made[name, format_]
        return found

    def _held(self, segment: Segment) -> Constants:
        """The float constants of one segment, kept while it is worked on."""
        if self._at is not segment:
            self._at, self._kept = segment, self.flow.constants({})
        return self._kept

    def _final(self, blocks: Sequence[Segment]) -> list[torch.Tensor]:
        """The float stream before the head, on the probes."""
        streams = self._probes(self.flow.reference)
        for segment in blocks:
            self._push(segment, self._held(segment), streams)
        return streams

    def _stream_into(self, segment: Segment) -> ir.Value:
        at = self.flow.segments.index(segment)
        return self.flow.output(self.flow.segments[at - 1]) if at > 1 else self.flow.entry()

    def _push(self, segment: Segment, constants: Constants, streams: list[torch.Tensor]) -> None:
        """Move `streams` behind the segment, each in its place: new ones would lie scattered between what is freed."""
        for x, moved in zip(streams, in_order(lambda x: self._run(segment, constants, x), streams), strict=True):
            x.copy_(moved)

    def _run(self, segment: Segment, constants: Constants, x: torch.Tensor) -> torch.Tensor:
        env = {**self.flow.shared, self._stream_into(segment): x}
        with torch.no_grad():
            return run(segment.nodes, env, constants, [self.flow.output(segment)])[0]

    def _variants(self, segment: Segment) -> dict[Variant, list[torch.Tensor]]:
        """What leaves the segment on the probes, for each linear of it in each format."""
        made = {}
        for name, format_, constants in self._exchanged(segment):
            made[name, format_] = self._probes(self.flow.reference)
            self._push(segment, constants, made[name, format_])
        return made

    def _exchanged(self, segment: Segment) -> Iterator[tuple[str, WeightFormat, Constants]]:
        """The segment's constants with one linear in one format."""
        for value, names in self.flow.groups(segment):
            moments = self.flow.moments(segment, value, {})
            for name in names:
                w = torch.from_numpy(self.sources[name].numpy()).to(self.flow.on)
                for format_ in self.formats:
                    solved = _solved(name, w, moments, format_, kept_of([self.sources[name]], [w]))
                    yield name, format_, self.flow.constants({name: self.flow.oriented(name, solved)})

    def _divergences(
        self, head: Segment, final: list[torch.Tensor], variants: Mapping[Variant, list[torch.Tensor]], after: Constants
    ) -> dict[Variant, float]:
        """Mean KL(float | variant) per position; two windows' logits are held at a time."""
        totals, count = dict.fromkeys(variants, 0.0), 0
        for at, x in enumerate(final):
            for i in range(len(x)):
                p = torch.log_softmax(self._run(head, self._held(head), x[i : i + 1]), -1)
                share = p.exp()
                count += p.shape[1]
                for key, streams in variants.items():
                    q = torch.log_softmax(self._run(head, after, streams[at][i : i + 1]), -1)
                    totals[key] += float((share * (p - q)).sum())
        return {key: total / count for key, total in totals.items()}


def _solved(
    name: str, w: torch.Tensor, moments: Moments, format_: WeightFormat, kept: torch.Tensor | None
) -> torch.Tensor:
    return gptq.solve(name, w, moments, kind_of(format_, w.shape[1]), gptq.Gptq(rounds=0), kept).value()
