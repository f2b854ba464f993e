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

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...compiler.calibration.torch_graph import Segment, run
from .gptq import Solved
from .integer_grid import Grid, half
from .residual_streams import ResidualStreams

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


class _Learned:
    """One linear while it is learned."""

    def __init__(self, solved: Solved) -> None:
        self.grid, self.shape = solved.grid, solved.q.shape
        self.shift = 0 if self.grid.zero is None else self.grid.zero[..., None]
        low, high = self.grid.low, self.grid.high
        place = (self.grid.blocks(solved.target) / self.grid.scale[..., None] + self.shift).clamp(low, high)
        self.floor = place.floor().clamp(low, high - 1)
        self.u = torch.logit((place - self.floor).clamp(_EDGE, 1 - _EDGE)).requires_grad_()
        self.t = torch.zeros_like(self.grid.scale).requires_grad_()
        self.fixed = torch.zeros_like(self.u, dtype=torch.bool)

    def value(self) -> torch.Tensor:
        h = torch.where(self.fixed, (self.u > 0).float(), torch.sigmoid(self.u))
        return ((self.floor + h - self.shift) * (self.grid.scale * self.t.exp())[..., None]).reshape(self.shape)

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
            q = (self.floor + (self.u > 0)).reshape(self.shape)
        grid = Grid(scale, self.grid.zero, self.grid.bits, self.grid.block)
        return Solved(q, grid, before.target, before.notes)


def learn(
    flow: ResidualStreams, segment: Segment, solved: Mapping[str, Solved], settings: Reconstruct
) -> tuple[dict[str, Solved], float, float]:
    """The block's linears learned together; the error before and after."""
    targets = flow.targets(segment)
    before = _error(flow, segment, targets, {name: one.value() for name, one in solved.items()})
    learned = {name: _Learned(one) for name, one in solved.items()}
    _descend(flow, segment, targets, learned, settings)
    made = {name: one.solved(solved[name]) for name, one in learned.items()}
    after = _error(flow, segment, targets, {name: one.value() for name, one in made.items()})
    return (made, before, after) if after < before else (dict(solved), before, before)


def _descend(
    flow: ResidualStreams,
    segment: Segment,
    targets: list[torch.Tensor],
    learned: Mapping[str, _Learned],
    settings: Reconstruct,
) -> None:
    roundings = {"params": [one.u for one in learned.values()], "lr": settings.rate}
    scales = {"params": [one.t for one in learned.values()], "lr": settings.scale_rate}
    optimiser = torch.optim.Adam([roundings, scales], betas=(0.9, 0.99))
    chance = torch.Generator().manual_seed(settings.seed)
    constants, output = flow.constants({}), flow.output(segment)
    order: list[int] = []
    for stage in range(1, settings.stages + 1):
        for one in learned.values():
            one.fix(settings.left**stage if stage < settings.stages else 0.0)
        for _ in range(settings.steps):
            order = order or torch.randperm(len(targets), generator=chance).tolist()
            at = order.pop()
            constants.given.update(
                {flow.linears[name].value: flow.oriented(name, x.value()) for name, x in learned.items()}
            )
            made = run(segment.nodes, flow.env(flow.solved[at]), constants, [output])[0]
            loss = torch.nn.functional.mse_loss(made, targets[at])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def _error(
    flow: ResidualStreams, segment: Segment, targets: list[torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> float:
    constants = flow.constants({name: flow.oriented(name, w) for name, w in weights.items()})
    output, total = flow.output(segment), 0.0
    with torch.no_grad():
        for x, wanted in zip(flow.solved, targets, strict=True):
            made = run(segment.nodes, flow.env(x), constants, [output])[0]
            total += float(torch.nn.functional.mse_loss(made, wanted))
    return total / len(targets)
