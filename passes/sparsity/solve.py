"""Prune a decoder's linears on calibration text, one after the other, on the inputs that those pruned before them give.

    wanda      keeps the units of largest  sum w_k^2 H_kk  (Sun et al. 2023, arXiv 2306.11695); values stay
    sparsegpt  `sparsegpt.py`
    swaps      `swaps.py`, after either
    layer      `refit.py`: what is kept is re-fitted to the dense linear's outputs
    blocks     the same, then `refit_blocks.py`: all linears of an attention or MLP together

Targets are the dense model's: W' = W + W D (H + dI)^-1 answers inputs that pruning has moved by D, as gptq's does. What
is solved is kept in the cache, a linear an entry, under the windows and everything before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from ...compiler.calibration import windows as calibrate
from ...compiler.calibration.cores import in_order, one_thread_an_operation
from ...compiler.calibration.time_left import TimeLeft
from ...compiler.calibration.torch_graph import Segment, device, run
from ...compiler.diagnostics.diagnostic import fail
from ...compiler.files import cache
from ...compiler.ir.annotations import Transform
from ...compiler.ir.module import Module
from ...compiler.ir.sparse_pattern import Sparsity
from ...compiler.ir.sparsity import SPARSITY
from ...compiler.ir.weights import SourceFile, Weight, derive, from_file
from ...compiler.pipeline.pass_interface import Scope
from ..solve import solution_cache as store
from ..solve.hessian import damp_between
from ..solve.residual_streams import ResidualStreams
from .inverse_factor import damp, inverse_factor
from .permute import permute
from .product import product
from .refit import refit
from .refit_blocks import RefitBlocks, refit_block
from .sparsegpt import sparsegpt
from .swaps import swap
from .units import by_groups, kept_by

KIND = "sparse"
_DAMPING = 0.01
_SHRINK = 0.1
_RIDGE = 0.01  # for what answers moved inputs
_PIECE, _LEAST_PIECE = 1 << 20, 128  # numbers, and rows at least, that are solved together
_ROWS = 4096  # written together
_WINDOWS = 16  # that the cost is told on


@dataclass(frozen=True)
class Settings:
    """What a line asks for; part of every key."""

    sparsity: Sparsity
    method: str
    swaps: bool
    recover: str
    sweeps: int = 12
    follow_drift: float = 1.0
    blocks: RefitBlocks = field(default_factory=RefitBlocks)

    @property
    def words(self) -> str:
        """For notes and origins: `sparsegpt, swaps, recover = layer`."""
        parts = [self.method, *(["swaps"] if self.swaps else [])]
        return ", ".join(parts + ([f"recover = {self.recover}"] if self.recover != "none" else []))


@one_thread_an_operation()
def solve(module: Module, wanted: Mapping[str, Weight], settings: Settings, scope: Scope) -> dict[str, Weight]:
    """The pruned weights [N, K] of all linears in `wanted`, read by rows from the cache."""
    windows = _windows(module, settings.method, scope)
    walk = _Walk(module, wanted, settings, windows, scope)
    keys = walk.keys()
    return {name: _load(keys[name], source, settings) for name, source in wanted.items()}


@one_thread_an_operation()
def permuted(module: Module, wanted: Mapping[str, Weight], sparsity: Sparsity, scope: Scope) -> int:
    """Put the inputs of `wanted` in better orders; how many weights moved."""
    ids = _windows(module, "sparsegpt", scope)
    return permute(module, wanted, sparsity, ids, calibrate.digest(ids), scope)


def _windows(module: Module, method: str, scope: Scope) -> np.ndarray:
    if scope.calibration is None:
        fail(
            "E0454",
            f"`method = {method}` needs a `calibration` block, but the plan has none",
            scope.origin,
            help='add `calibration { text = "calib/*.txt" }`, or use `method = magnitude`, which needs none',
        )
    return calibrate.windows(scope.calibration, module)


def _load(key: str, source: Weight, settings: Settings) -> Weight:
    """The entry as a weight like `source`."""
    held = SourceFile(cache.entry(KIND, key) / "value.bin")
    stored = from_file(source.name, held, 0, ir.DataType.FLOAT, source.dims)
    target = source.dtype.numpy()

    def rows(start: int, stop: int) -> np.ndarray:
        return stored.rows(start, stop).astype(target, copy=False)

    how = f"{settings.sparsity} by {settings.words}"
    made = derive(source.name, source.dtype, source.dims, rows, source, Transform.PRUNE, how)
    SPARSITY.set(made, settings.sparsity)
    return made


@dataclass(frozen=True)
class Problem:
    """Linears of the same inputs, below each other: weights and targets [N, K], second moments [K, K] of n inputs."""

    name: str  # for errors
    w: torch.Tensor
    target: torch.Tensor
    hessian: torch.Tensor
    count: int


class _Walk:
    """One run over a decoder."""

    def __init__(
        self, module: Module, wanted: Mapping[str, Weight], settings: Settings, ids: np.ndarray, scope: Scope
    ) -> None:
        self.wanted, self.settings, self.ids, self.scope = wanted, settings, ids, scope
        self.flow = ResidualStreams(module, wanted, halves=True)
        self.found: dict[str, str] = {}

    def keys(self) -> dict[str, str]:
        """Prune all; the cache's key of each linear."""
        flow, settings = self.flow, self.settings
        clock = TimeLeft(self.scope.progress, settings.method, flow.sizes())
        flow.later(lambda: flow.start(self.ids, {}))
        words = dict.fromkeys(self.wanted, "")
        state = store.key("sparsify 4", calibrate.digest(self.ids), repr(settings))
        state = store.key(state, flow.content(flow.segments[0], words))
        last = max((at for at, one in enumerate(flow.segments) if flow.groups(one)), default=0)
        for at, segment in enumerate(flow.segments[1:], 1):
            clock.tick(segment.name)
            state = store.key(state, flow.content(segment, words))
            self._stretch(segment, state)
            if at == last:
                flow.later(lambda: flow.keep_first(_WINDOWS))  # for the cost alone: the others are done
        self._tell_cost(store.key(state, "cost"))
        return self.found

    def _stretch(self, segment: Segment, state: str) -> None:
        flow = self.flow
        names = [name for _, group in flow.groups(segment) for name in group]
        keys = {name: store.key(state, name) for name in names}
        if any(cache.find(KIND, key) is None for key in keys.values()):
            flow.catch_up()
            for name, value in self._solve(segment).items():
                cache.make(KIND, keys[name], lambda folder, value=value: _write(folder, value))
        self.found.update(keys)
        if segment is not flow.segments[-1]:
            flow.later(lambda: flow.advance(segment, {name: self._held(name) for name in names}))

    def _held(self, name: str) -> torch.Tensor:
        """A pruned weight as the graph's value holds it."""
        value = _load(self.found[name], self.wanted[name], self.settings).numpy().astype(np.float32)
        return self.flow.oriented(name, torch.from_numpy(value).to(device()))

    def _solve(self, segment: Segment) -> dict[str, torch.Tensor]:
        """The pruned weights [N, K] of one segment."""
        flow, made = self.flow, dict[str, torch.Tensor]()
        kept: dict[str, torch.Tensor] = {}
        placed: dict[str, torch.Tensor] = {}
        for value, names in flow.groups(segment):
            parts = [self._float(name) for name in names]
            inputs = self._inputs(segment, value, placed, _below(parts), names[0])
            pairs = list(prune_rows(inputs, self.settings))
            whole, mask = _below([v for v, _ in pairs]), _below([m for _, m in pairs])
            del pairs
            sizes = [len(part) for part in parts]
            for name, own, own_mask in zip(names, whole.split(sizes), mask.split(sizes), strict=True):
                made[name], kept[name], placed[name] = own, own_mask, flow.oriented(name, own)
        if self.settings.recover == "blocks" and made and segment is not flow.segments[-1]:
            made = refit_block(flow, segment, made, kept, self.settings.blocks)
        return made

    def _inputs(
        self, segment: Segment, value: ir.Value, placed: Mapping[str, torch.Tensor], w: torch.Tensor, name: str
    ) -> Problem:
        """What is to be solved for the linears `w` that read `value`; the drift is let go of on the way."""
        follow = self.settings.follow_drift
        moments = self.flow.moments(segment, value, placed, drift=follow > 0)
        hessian, count = moments.hessian, moments.count
        drifted = None if moments.drift is None else product(w, moments.drift)
        del moments
        if drifted is None:
            return Problem(name, w, w, hessian, count)
        upper = inverse_factor(name, damp(hessian.clone(), _RIDGE + w.shape[1] / count))
        return Problem(name, w, torch.add(w, product(product(drifted, upper.T), upper), alpha=follow), hessian, count)

    def _float(self, name: str) -> torch.Tensor:
        """The dense weight; what is not finite is an error."""
        w = torch.from_numpy(self.wanted[name].numpy().astype(np.float32)).to(device())
        if not bool(torch.isfinite(w).all()):
            row = int(torch.argmin(torch.isfinite(w).all(1).int()))
            fail(
                "E0411",
                f"`{name}.weight` holds NaN or infinity in row {row}: it cannot be pruned",
                self.scope.origin,
                help=f'leave it as it is with `except ["{name}"]`, or repair the model',
            )
        return w

    def _tell_cost(self, key: str) -> None:
        """Perplexity on the first calibration windows, dense and pruned."""

        def build(folder: Path) -> None:
            self.flow.catch_up()
            np.save(folder / "loss.npy", np.array(self._losses()))

        dense, pruned = np.load(cache.make(KIND, key, build) / "loss.npy").tolist()
        cost = f"{math.exp(dense):.4g} to {math.exp(pruned):.4g}, {math.exp(pruned - dense):.3f} times as much"
        what = f"{len(self.wanted)} weights are {self.settings.sparsity} by {self.settings.words}"
        self.scope.note(f"{what}: perplexity on the calibration text goes from {cost}")

    def _losses(self) -> tuple[float, float]:
        """Mean loss of the dense and of the pruned model."""
        flow, head = self.flow, self.flow.segments[-1]
        placed = {name: self._held(name) for _, names in flow.groups(head) for name in names}
        sums = []
        for streams, constants in ((flow.reference, flow.constants({})), (flow.solved, flow.constants(placed))):
            loss, count = 0.0, 0
            for at, x in enumerate(streams):
                for i in range(len(x)):
                    if count == _WINDOWS:
                        break
                    ids = torch.from_numpy(self.ids[at * len(streams[0]) + i]).long().to(x.device)
                    with torch.no_grad():
                        logits = run(head.nodes, flow.env(x[i : i + 1]), constants, [flow.output(head)])[0][0]
                    loss += float(torch.nn.functional.cross_entropy(logits[:-1], ids[1:]))
                    count += 1
            sums.append(loss / count)
        return sums[0], sums[1]


def prune_rows(problem: Problem, settings: Settings) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Values and masks of the rows, in pieces spread over the cores. The problem's `hessian` is damped in place."""
    sparsity, w, sizes = settings.sparsity, problem.w, problem.hessian.diagonal().clone()
    # few rows tell little of how inputs go together
    matrix = damp_between(problem.hessian, _DAMPING + _SHRINK * w.shape[1] / problem.count)
    order = by_groups(sizes, sparsity)
    upper = inverse_factor(problem.name, matrix, order) if settings.method == "sparsegpt" else None

    def piece(both: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        rows, target = both
        if upper is not None:
            value, kept = (made[:, order.argsort()] for made in sparsegpt(target[:, order], upper, sparsity))
        else:
            kept = kept_by(rows.square() * sizes, sparsity)  # undamped, as published
            value, target = torch.where(kept, rows, 0.0), rows
        if settings.swaps:
            value, kept = swap(target, value, kept, matrix, sparsity, upper is not None, settings.sweeps)
        if settings.recover != "none":
            value = refit(both[1], value, kept, matrix)
        return value, kept

    count = max(_LEAST_PIECE, min(-(-len(w) // 2), _PIECE // w.shape[1]))
    return in_order(piece, zip(w.split(count), problem.target.split(count), strict=True))


def _below(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One below the other; a single one is not copied."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _write(folder: Path, value: torch.Tensor) -> None:
    with (folder / "value.bin").open("wb") as file:
        for rows in value.split(_ROWS):
            file.write(np.ascontiguousarray(rows.cpu().numpy(), np.float32).tobytes())
