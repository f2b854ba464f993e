"""Solve a set of weights by one method, segment by segment, resuming from the cache what an earlier run has done.

    wanted {linear: format}  ->  {linear: q, scale, zero_point}, lazy, from files

Calibrated methods walk the decoder: gather the moments of a group of linears that share an input, solve them, go on
to the next group with these in place. What a linear's answer depends on makes its key: the windows, everything before
its segment, its segment's constants and formats, the method's settings. A linear behind all decoder blocks is as wide
as the vocabulary: it is solved in pieces of rows that go to the cache at once.

Embeddings see no activations: their rows are solved by clip search. One that a head shares is solved on the head's
inputs in the float model, since those of the solved one are known only once the embedding is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
import torch

from ...compiler.calibration import windows as calibrate
from ...compiler.calibration.cores import in_order, one_thread_an_operation
from ...compiler.calibration.freed_memory import give_back
from ...compiler.calibration.time_left import TimeLeft
from ...compiler.calibration.torch_graph import Segment, device
from ...compiler.diagnostics.diagnostic import fail
from ...compiler.ir.module import Module
from ...compiler.ir.weight_format import TWO_LEVEL
from ...compiler.ir.weights import Weight
from ...compiler.pipeline.pass_interface import Scope
from ..quantization.round_to_nearest import QuantizedTensors, two_level
from . import awq, gptq, hqq, mse, reconstruct
from . import solution_cache as store
from .hessian import prepare
from .integer_grid import Grid, GridKind
from .kept import kept_of
from .residual_streams import Moments, ResidualStreams
from .time_budget import TimeBudget
from .tune_scales import Tune
from .tuned_weights import tuned
from .weight_to_solve import WeightToSolve

_ROWS = {"mse": (mse.solve, mse.Mse()), "hqq": (hqq.solve, hqq.Hqq())}
CALIBRATED = ("awq", "gptq", "reconstruct")
_APART = 8  # one of so many windows is kept for judging where the text has no others
_LOOKED_UP = 0.1  # added to the damping of a head that is an embedding too: its rows matter for themselves


@dataclass(frozen=True)
class Settings:
    """What a method may be tuned by; part of every key."""

    method: str
    gptq: gptq.Gptq = field(default_factory=gptq.Gptq)
    reconstruct: reconstruct.Reconstruct = field(default_factory=reconstruct.Reconstruct)
    seconds: float = 0.0  # that it may take; 0: as long as it takes


@one_thread_an_operation()
def solve(
    module: Module,
    wanted: Mapping[str, WeightToSolve],
    settings: Settings,
    scope: Scope,
    tune: Tune | None = None,
    seconds: float = 0.0,
) -> dict[str, QuantizedTensors]:
    """The quantised weights of all linears in `wanted`; their scales learned end to end if there is `tune`.

    That takes about `seconds` at most, 0: as long as it takes.
    """
    if settings.method in _ROWS:
        clock = TimeLeft(scope.progress, settings.method, [math.prod(one.source.dims) for one in wanted.values()])
        keys = {}
        for name, one in wanted.items():
            clock.tick(name)
            keys[name] = _by_rows(name, one, settings.method, scope)
    elif settings.method in CALIBRATED:
        walk = _Walk(module, wanted, settings, scope, 0 if tune is None else tune.judges)
        keys, wanted = walk.keys(), walk.wanted
        if tune is not None:
            walk.flow.forget()
            flow = ResidualStreams(module, walk.flow.floats)
            keys = tuned(flow, wanted, keys, (walk.ids, walk.others), tune, scope, seconds)
    else:
        raise ValueError(f"no method `{settings.method}`")
    return {name: one.loaded(name, keys[name]) for name, one in wanted.items()}


def _by_rows(name: str, one: WeightToSolve, method: str, scope: Scope) -> str:
    """Solve one weight without calibration; returns its key."""
    solver, constants = _ROWS[method]
    key = store.key(method, repr(constants), repr(one.format_), store.digest(one.source))

    def parts() -> Iterator[store.Solution]:
        for start, rows in one.source.blocks():
            w = _float(name, rows, start, scope)
            q, grid = solver(w, one.kind, constants)
            if one.format_.scales == TWO_LEVEL:
                grid.scale = _two_level(grid.scale)
                q = grid.quantise(w)
            yield _solution(q, grid, one)

    store.keep(key, parts())
    return key


def _float(name: str, rows: np.ndarray, start: int, scope: Scope) -> torch.Tensor:
    """Rows as float32 [R, K]; what is not finite is an error."""
    w = torch.from_numpy(rows.astype(np.float32).reshape(len(rows), -1)).to(device())
    finite = torch.isfinite(w).all(1)
    if not bool(finite.all()):
        row = int(torch.argmin(finite.int()))
        what = "NaN" if bool(torch.isnan(w[row]).any()) else "infinity"
        fail(
            "E0411",
            f"`{name}.weight` holds {what} in row {start + row}: it cannot be quantised",
            scope.origin,
            help=f'leave it as it is with `except ["{name}"]`, or repair the model',
        )
    return w


def _two_level(scale: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(two_level(scale.cpu().numpy())).to(scale.device)


def _solution(q: torch.Tensor, grid: Grid, one: WeightToSolve, notes: list[str] | None = None) -> store.Solution:
    made = store.Solution.of(q, grid, notes)
    if one.format_.block is None:
        made.scale = made.scale[:, 0]
        made.zero = None if made.zero is None else made.zero[:, 0]
    made.q = made.q.reshape(len(made.q), *one.source.dims[1:])
    return made


class _Walk:
    """One calibrated run over a decoder."""

    def __init__(
        self, module: Module, wanted: Mapping[str, WeightToSolve], settings: Settings, scope: Scope, judges: int
    ) -> None:
        if scope.calibration is None:
            fail(
                "E0454",
                f"`method = {settings.method}` needs a `calibration` block, but the plan has none",
                scope.origin,
                help='add `calibration { text = "calib/*.txt" }`, or use a method that needs none: rtn, mse or hqq',
            )
        self.module, self.settings, self.scope = module, settings, scope
        self.wanted: Mapping[str, WeightToSolve] = wanted
        self.ids, self.others = calibrate.windows_and_more(scope.calibration, module, judges)
        if judges and not len(self.others):  # the text has no more: some are taken out
            apart = -(-len(self.ids) // _APART) if len(self.ids) > 1 else 0
            self.ids, self.others = self.ids[apart:], self.ids[:apart]
        if settings.method == "awq":
            self.wanted = self._scaled()
        self.drift = settings.method != "awq" and settings.gptq.follow_drift > 0
        whole = settings.method == "reconstruct"  # which learns a block's linears together
        self.flow = ResidualStreams(module, {name: one.source for name, one in self.wanted.items()}, halves=not whole)
        self.found: dict[str, str] = {}
        self.budget = TimeBudget(settings.seconds)
        self.steps: int | None = None  # that the present block was learned for

    def _scaled(self) -> dict[str, WeightToSolve]:
        """Fold activation-aware scales into the module; what is wanted, with the weights scaled."""
        flow = ResidualStreams(self.module, {name: one.source for name, one in self.wanted.items()}, halves=True)
        flow.later(lambda: flow.start(self.ids, {}))
        state = store.key("awq scales", calibrate.digest(self.ids))
        folded = awq.scale_module(flow, {name: one.kind for name, one in self.wanted.items()}, state, self.scope)
        self.scope.note(f"awq: {folded} groups of linears scaled by their activations")
        made = {}
        for name, one in self.wanted.items():
            linear = flow.linears[name]
            made[name] = one if linear.stored is None else WeightToSolve(linear.weight(), one.format_)
        return made

    def keys(self) -> dict[str, str]:
        """Solve all; the key of each linear."""
        self.left = len(self.flow.segments) - 2  # blocks that may be learned: without embedding and head
        seen = self._matmuls()
        rows = [name for name in self.wanted if name not in seen]
        for name in rows:
            if name not in self.found:
                self._rows(name)
        self.flow.later(lambda: self.flow.start(self.ids, {name: self._table(name) for name in rows}))
        formats = {name: one.words for name, one in self.wanted.items()}
        state = store.key(calibrate.digest(self.ids), *sorted(self.found.values()))
        state = store.key(state, self.flow.content(self.flow.segments[0], formats))
        self.clock = TimeLeft(self.scope.progress, self.settings.method, self.flow.sizes())
        for segment in self.flow.segments[1:]:
            if len(self.found) == len(self.wanted):
                break
            self.clock.tick(segment.name)
            state = store.key(state, self.flow.content(segment, formats), repr(self.settings))
            self._stretch(segment, state)
            self.left -= 1
        solved = list(dict.fromkeys(self.found.values()))
        learned = [steps for key in solved if (steps := store.steps(key)) is not None]
        self.budget.tell(learned, self.settings.reconstruct, self.scope)
        for key in solved:
            for text in store.notes(key):
                self.scope.note(text)
        return self.found

    def _matmuls(self) -> set[str]:
        """Linears whose inputs can be seen, and that share their weight with no embedding in `wanted`."""
        gathered = {
            id(self.wanted[n].source) for n, x in self.flow.linears.items() if n in self.wanted and x.kind == "gather"
        }
        return {
            name
            for segment in self.flow.segments[1:]
            for _, names in self.flow.groups(segment)
            for name in names
            if id(self.wanted[name].source) not in gathered
        }

    def _rows(self, name: str) -> None:
        """An embedding, and the head that shares it."""
        one = self.wanted[name]
        sharing = [n for n, other in self.wanted.items() if other == one]
        reader = self._reader(sharing)
        if reader is None:
            self.scope.note(f"{self.settings.method}: `{name}` has no activations to look at: clip search alone")
            self.found[name] = _by_rows(name, one, "mse", self.scope)
            return
        segment, value = reader
        formats = {n: w.words for n, w in self.wanted.items()}
        before = [self.flow.content(part, formats) for part in self.flow.segments]
        key = store.key("shared", calibrate.digest(self.ids), *before, repr(self.settings), one.words)
        if not store.known(key):
            settings = replace(self.settings.gptq, damping=self.settings.gptq.damping + _LOOKED_UP)
            moments = self._float_moments(segment, value)
            self._in_pieces(sharing[-1], key, self._row_solver(sharing[-1], moments, one.kind, settings))
        self.found.update(dict.fromkeys(sharing, key))

    def _reader(self, names: list[str]) -> tuple[Segment, ir.Value] | None:
        """Which segment multiplies its value by the weight of `names`; None if the weight is only looked up."""
        for segment in self.flow.segments[1:]:
            for value, found in self.flow.groups(segment):
                if any(name in names for name in found):
                    return segment, value
        return None

    def _float_moments(self, segment: Segment, value: ir.Value) -> Moments:
        """Of the inputs `value` in the float model."""
        flow = ResidualStreams(self.module, self.flow.floats)
        flow.start(self.ids, {})
        clock = TimeLeft(self.scope.progress, f"{self.settings.method}: inputs of {segment.name} in", flow.sizes())
        for part in flow.segments[1:]:
            clock.tick(part.name)
            if part.name == segment.name:
                break
            flow.advance(part, {})
        return flow.moments(segment, value, {})

    def _table(self, name: str) -> Weight:
        """What is solved already, dequantised [N, K]."""
        one = self.wanted[name]
        return one.loaded(name, self.found[name]).value()

    def _value(self, name: str) -> torch.Tensor:
        """The same, as the graph's value holds it."""
        return self.flow.oriented(name, torch.from_numpy(self._table(name).numpy()).to(device()))

    def _stretch(self, segment: Segment, state: str) -> None:
        names = [n for _, group in self.flow.groups(segment) for n in group if n not in self.found]
        keys = {name: store.key(state, name) for name in names}
        if not all(store.known(key) for key in keys.values()):
            self.flow.catch_up()
            give_back()
            if segment is self.flow.segments[-1]:
                self._last(segment, keys)
            else:
                for name, made in self._solve(segment).items():
                    one = self.wanted[name]
                    store.keep(keys[name], [_solution(made.q, made.grid, one, made.notes)], self.steps)
        self.found.update(keys)
        self.flow.later(lambda: self.flow.advance(segment, {name: self._value(name) for name in names}))

    def _last(self, segment: Segment, keys: Mapping[str, str]) -> None:
        """Linears behind all decoder blocks, as wide as the vocabulary: each in pieces of rows."""
        for value, names in self.flow.groups(segment):
            names = [name for name in names if name in keys]
            if not names:
                continue
            moments = self.flow.moments(
                segment, value, {n: self._value(n) for n in keys if n in self.found}, self.drift
            )
            if not set(keys) - set(self.found) - set(names):
                self.flow.forget()
            for name in names:
                solver = self._row_solver(name, moments, self.wanted[name].kind, self.settings.gptq)
                self._in_pieces(name, keys[name], solver)
                self.found[name] = keys[name]

    def _in_pieces(self, name: str, key: str, solver: gptq.RowSolver) -> None:
        """Solve a weight by rows into the cache; what is held is a piece of it for each core."""
        one = self.wanted[name]

        def piece(part: tuple[int, np.ndarray]) -> store.Solution:
            w = _float(name, part[1], part[0], self.scope)
            made = solver(w, kept_of([one.source], [w]))
            return _solution(made.q, made.grid, one, made.notes if part[0] == 0 else None)

        store.keep(key, in_order(piece, one.source.blocks()))

    def _row_solver(self, name: str, moments: Moments, kind: GridKind, settings: gptq.Gptq) -> gptq.RowSolver:
        if self.settings.method != "awq":
            return gptq.solver(name, moments, kind, settings)
        ready = prepare(name, moments.hessian, settings.damping, by_importance=False) if kind.two_level else None

        def searched(w: torch.Tensor, _kept: torch.Tensor | None) -> gptq.Solved:
            made = awq.quantise(w, moments.hessian, kind, settings.damping)
            return made if ready is None else gptq.on_levels(made, kind, ready)

        return searched

    def _solve(self, segment: Segment) -> dict[str, gptq.Solved]:
        solved: dict[str, gptq.Solved] = {}
        values: dict[str, torch.Tensor] = {}
        self.steps = None
        begun, allowed = time.perf_counter(), self.budget.allowed(self.left)
        for value, names in self.flow.groups(segment):
            names = [name for name in names if name not in self.found]
            if not names:
                continue
            moments = self.flow.moments(segment, value, values, self.drift)
            for kind in dict.fromkeys(self.wanted[name].kind for name in names):
                alike = [name for name in names if self.wanted[name].kind == kind]
                for name, made in zip(alike, self._alike(alike, moments, kind), strict=True):
                    solved[name], values[name] = made, self.flow.oriented(name, made.value())
        if self.settings.method == "reconstruct" and solved:
            settings = self.settings.reconstruct
            if any(self.wanted[name].format_.scales == TWO_LEVEL for name in solved):
                settings = replace(settings, scale_rate=0.0)  # learned scales would leave their two levels
            seconds = None if allowed is None else allowed - (time.perf_counter() - begun)
            learned = reconstruct.learn(self.flow, segment, solved, settings, seconds, self.clock.within)
            self.steps, solved = learned.steps, learned.solved
        return solved

    def _alike(self, names: list[str], moments: Moments, kind: GridKind) -> Iterator[gptq.Solved]:
        """Linears of the same inputs and grids, solved below each other."""
        parts = [_float(name, self.wanted[name].source.numpy(), 0, self.scope) for name in names]
        if self.settings.method == "awq":
            solved = self._row_solver(names[0], moments, kind, self.settings.gptq)(torch.cat(parts), None)
        else:
            kept = kept_of([self.wanted[name].source for name in names], parts)
            solved = gptq.solve(names[0], torch.cat(parts), moments, kind, self.settings.gptq, kept)
        yield from gptq.parted(solved, [len(part) for part in parts])
