"""Block-wise reconstruction: a decoder block's roundings and scales learned against its float outputs.

    minimise   mean |f(x; W) - f(x'; Q)|^2        x the reference stream, x' the solved one (flow.py)
    Q = (floor(w / s) + h - zero) * s * exp(t)    h in 0..1 [N, K] up or down, t [N, K/B], both learned

Every h starts where w lies between its two integers, so that the block starts all but exact. Then, stage by stage, the
h nearest to 0 or 1 are fixed there and the others go on learning to make their error good, until none is left:
progressive adaptive rounding (TesseraQ, Li et al. 2024, arXiv 2410.19103, section 3.2), after AdaRound (Nagel et al.
2020, arXiv 2004.10568) and BRECQ (Li et al. 2021, arXiv 2102.05426, section 3.2: the block as the unit). Grids are
gptq's; the learned block is kept only if its error over all windows is smaller than gptq's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ...compiler.calibration.torch_graph import Segment
from .block_error import block_error, block_gradients
from .gptq import Solved
from .integer_grid import Grid, half
from .residual_streams import ResidualStreams

_FEWEST = 8  # steps; with fewer, what is fixed has not been learned
_EDGE = 0.01  # h starts at least so far from 0 and 1, where it could not learn


@dataclass(frozen=True)
class Reconstruct:
    """`stages` of `steps` batches; after stage i all but `left`^i of the roundings are fixed, after the last all."""

    stages: int = 20
    steps: int = 30
    left: float = 0.8
    rate: float = 0.1  # of the logit of h
    scale_rate: float = 3e-4  # of t
    seed: int = 0

    def within(self, steps: int) -> Reconstruct:
        """At most `steps` in all: fewer a stage, and fewer stages if one step each is too many; none if too few."""
        if steps >= self.stages * self.steps:
            return self
        if steps < _FEWEST:
            return replace(self, steps=0)
        stages = min(self.stages, steps)
        return replace(self, stages=stages, steps=steps // stages, left=self.left ** (self.stages / stages))


class _Rounding:
    """One linear while it is learned."""

    def __init__(self, solved: Solved) -> None:
        self.grid, self.shape = solved.grid, solved.q.shape
        self.shift = 0 if self.grid.zero is None else self.grid.zero[..., None]
        low, high, self.step = self.grid.integers
        place = (self.grid.blocks(solved.target) / self.grid.scale[..., None] + self.shift).clamp(low, high)
        self.floor = (((place - low) / self.step).floor() * self.step + low).clamp(low, high - self.step)
        self.u = torch.logit(((place - self.floor) / self.step).clamp(_EDGE, 1 - _EDGE)).requires_grad_()
        self.t = torch.zeros_like(self.grid.scale).requires_grad_()
        self.fixed = torch.zeros_like(self.u, dtype=torch.bool)
        self.kept = solved.kept

    def value(self) -> torch.Tensor:
        h = torch.where(self.fixed, (self.u > 0).float(), torch.sigmoid(self.u))
        scale = (self.grid.scale * self.t.exp())[..., None]
        made = ((self.floor + self.step * h - self.shift) * scale).reshape(self.shape)
        return made if self.kept is None else made * self.kept

    def fix(self, left: float) -> None:
        """Fix all but the share `left` of every output's roundings, the surest first; what is fixed stays so."""
        with torch.no_grad():
            sure = torch.where(self.fixed, torch.inf, self.u.abs()).reshape(len(self.u), -1)
            count = round(sure.shape[1] * (1 - left))
            chosen = sure.topk(count, 1).indices
            self.fixed = torch.zeros_like(sure, dtype=torch.bool).scatter_(1, chosen, True).reshape(self.u.shape)

    def solved(self, before: Solved) -> Solved:
        with torch.no_grad():
            scale = half(self.grid.scale * self.t.exp())
            q = (self.floor + self.step * (self.u > 0)).reshape(self.shape)
            if self.kept is not None:
                zero = 0 if self.grid.zero is None else self.grid.zero.repeat_interleave(self.grid.block, 1)
                q = torch.where(self.kept, q, zero)
        grid = Grid(scale, self.grid.zero, self.grid.integers, self.grid.block)
        return Solved(q, grid, before.target, before.notes, self.kept)


def learn(
    flow: ResidualStreams,
    segment: Segment,
    solved: Mapping[str, Solved],
    settings: Reconstruct,
    seconds: float | None = None,
    tell: Callable[[float], None] = lambda _share: None,
) -> Learned:
    """The block's linears learned together, in about `seconds` if that is less than all steps take.

    `tell` is called with the share of the steps done.
    """
    start = time.perf_counter()
    targets = flow.targets(segment)
    before = block_error(flow, segment, targets, {name: one.value() for name, one in solved.items()})
    learning = _Learning(flow, segment, targets, {name: _Rounding(one) for name, one in solved.items()})
    if seconds is not None:
        begun = time.perf_counter()
        learning.gradients(0)
        step = time.perf_counter() - begun
        settings = settings.within(int((seconds - 1.5 * (begun - start)) / step))  # the error is computed once more
    if not settings.steps:
        return Learned(dict(solved), before, before, 0)
    learning.descend(settings, tell)
    made = {name: one.solved(solved[name]) for name, one in learning.linears.items()}
    after = block_error(flow, segment, targets, {name: one.value() for name, one in made.items()})
    count = settings.stages * settings.steps
    return Learned(made, before, after, count) if after < before else Learned(dict(solved), before, before, count)


@dataclass(frozen=True)
class Learned:
    """A block's linears, its error before and after, and how many steps it was learned for."""

    solved: dict[str, Solved]
    before: float
    after: float
    steps: int


class _Learning:
    """The linears of one block while they are learned together."""

    def __init__(
        self, flow: ResidualStreams, segment: Segment, targets: list[torch.Tensor], linears: Mapping[str, _Rounding]
    ) -> None:
        self.flow, self.segment, self.targets, self.linears = flow, segment, targets, linears

    def descend(self, settings: Reconstruct, tell: Callable[[float], None]) -> None:
        """Learn, `settings.stages` times fixing more roundings, at last all."""
        roundings = {"params": [one.u for one in self.linears.values()], "lr": settings.rate}
        scales = {"params": [one.t for one in self.linears.values()], "lr": settings.scale_rate}
        optimiser = torch.optim.Adam([roundings, scales], betas=(0.9, 0.99))
        chance = torch.Generator().manual_seed(settings.seed)
        order: list[int] = []
        for stage in range(1, settings.stages + 1):
            for one in self.linears.values():
                one.fix(settings.left**stage if stage < settings.stages else 0.0)
            for step in range(settings.steps):
                order = order or torch.randperm(len(self.targets), generator=chance).tolist()
                optimiser.zero_grad()
                self.gradients(order.pop())
                optimiser.step()
                tell((stage - 1 + (step + 1) / settings.steps) / settings.stages)

    def gradients(self, at: int) -> None:
        """Those of batch `at`, added to what the parameters hold; each part of the batch on a core."""
        values = {name: one.value() for name, one in self.linears.items()}
        block_gradients(self.flow, self.segment, self.targets, at, values)
