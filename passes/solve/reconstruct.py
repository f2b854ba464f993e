"""Block-wise reconstruction: a decoder block's integers and scales learned against its float outputs.

    minimise   mean |f(x; W) - f(x'; Q)|^2        x the reference stream, x' the solved one (flow.py)
    Q = (clip(round(v)) - zero) * scale * exp(s)      v [N, K] and s [N, K/B] learned, gradients straight through round

Starts from gptq's answer: v is its integer plus what rounding took off, at most `_REACH` of a step, so that few
integers change and only where the whole block gains. BRECQ (Li et al. 2021, arXiv 2102.05426, section 3.2) for the
unit, AdaRound (Nagel et al. 2020, arXiv 2004.10568) and SignRound (Cheng et al. 2023, arXiv 2309.05516, section 3)
for learning the rounding. Zeros stay. The learned block is kept only if its error over all windows is smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...compiler.torch_graph import Stretch, run
from .flow import Flow
from .gptq import Solved
from .grid import Grid, half

_REACH = 0.45


@dataclass(frozen=True)
class Reconstruct:
    """`steps` batches per decoder block; rates are for 2 bits, halve with each bit, and fall linearly to a fiftieth."""

    steps: int = 300
    rate: float = 1e-2  # of v, in steps of the grid
    scale_rate: float = 1e-3  # of s, in natural logarithms
    seed: int = 0


class _Learned:
    """One linear while it is learned."""

    def __init__(self, solved: Solved) -> None:
        self.grid, blocks = solved.grid, solved.grid.blocks
        self.shift = 0 if self.grid.zero is None else self.grid.zero[..., None]
        place = blocks(solved.target) / self.grid.scale[..., None] + self.shift
        q = blocks(solved.q)
        self.v = (q + (place - q).clamp(-_REACH, _REACH)).requires_grad_()
        self.s = torch.zeros_like(self.grid.scale).requires_grad_()
        self.shape = solved.q.shape

    def value(self) -> torch.Tensor:
        v = self.v.clamp(self.grid.low, self.grid.high)
        q = v + (v.round() - v).detach()
        return ((q - self.shift) * (self.grid.scale * self.s.exp())[..., None]).reshape(self.shape)

    def fixed(self, solved: Solved) -> Solved:
        with torch.no_grad():
            scale = half(self.grid.scale * self.s.exp())
            q = self.v.clamp(self.grid.low, self.grid.high).round().reshape(self.shape)
        grid = Grid(scale, self.grid.zero, self.grid.bits, self.grid.block)
        return Solved(q, grid, solved.target, solved.notes)


def learn(
    flow: Flow, stretch: Stretch, solved: Mapping[str, Solved], settings: Reconstruct
) -> tuple[dict[str, Solved], float, float]:
    """The block's linears learned together; the error before and after."""
    targets = flow.targets(stretch)
    before = _error(flow, stretch, targets, {name: one.value() for name, one in solved.items()})
    learned = {name: _Learned(one) for name, one in solved.items()}
    _descend(flow, stretch, targets, learned, settings)
    fixed = {name: one.fixed(solved[name]) for name, one in learned.items()}
    after = _error(flow, stretch, targets, {name: one.value() for name, one in fixed.items()})
    return (fixed, before, after) if after < before else (dict(solved), before, before)


def _descend(
    flow: Flow, stretch: Stretch, targets: list[torch.Tensor], learned: Mapping[str, _Learned], settings: Reconstruct
) -> None:
    groups = []
    for one in learned.values():
        finer = 2.0 ** (2 - one.grid.bits)
        groups.append({"params": [one.v], "lr": settings.rate * finer})
        groups.append({"params": [one.s], "lr": settings.scale_rate * finer})
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.95))
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: max(0.02, 1 - i / settings.steps))
    chance = torch.Generator().manual_seed(settings.seed)
    constants, output = flow.constants({}), flow.output(stretch)
    order: list[int] = []
    for _ in range(settings.steps):
        order = order or torch.randperm(len(targets), generator=chance).tolist()
        at = order.pop()
        constants.given.update(
            {flow.linears[name].value: flow.oriented(name, x.value()) for name, x in learned.items()}
        )
        made = run(stretch.nodes, flow.env(flow.solved[at]), constants, [output])[0]
        loss = torch.nn.functional.mse_loss(made, targets[at])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()


def _error(flow: Flow, stretch: Stretch, targets: list[torch.Tensor], weights: Mapping[str, torch.Tensor]) -> float:
    constants = flow.constants({name: flow.oriented(name, w) for name, w in weights.items()})
    output, total = flow.output(stretch), 0.0
    with torch.no_grad():
        for x, wanted in zip(flow.solved, targets, strict=True):
            made = run(stretch.nodes, flow.env(x), constants, [output])[0]
            total += float(torch.nn.functional.mse_loss(made, wanted))
    return total / len(targets)
