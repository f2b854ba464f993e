"""The kept weights of an attention or an MLP re-fitted together, against what the dense model gives behind it.

    minimise   mean |f(x; W) - f(x'; V)|^2       x the dense stream, x' the pruned one, V zero where it was pruned

arXiv 2510.14444: the submodule is the unit, not the matrix, since what one linear lost its neighbours can make good. By
Adam over the calibration windows, with a rate that falls like a cosine. The result is taken only if its error over all
windows is smaller than that of what it started from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...compiler.calibration.torch_graph import Segment
from ..solve.block_error import block_error, block_gradients
from ..solve.residual_streams import ResidualStreams


@dataclass(frozen=True)
class RefitBlocks:
    """`epochs` over all windows; `rate` as a part of a linear's typical weight."""

    epochs: int = 10
    rate: float = 0.05
    seed: int = 0


def refit_block(
    flow: ResidualStreams,
    segment: Segment,
    values: Mapping[str, torch.Tensor],
    kept: Mapping[str, torch.Tensor],
    settings: RefitBlocks,
) -> dict[str, torch.Tensor]:
    """Better values [N, K] of the segment's linears, their zeros where they are."""
    targets = flow.targets(segment)
    before = block_error(flow, segment, targets, values)
    learned = {name: value.clone().requires_grad_() for name, value in values.items()}
    groups = [
        {"params": [one], "lr": settings.rate * _typical(values[name], kept[name])} for name, one in learned.items()
    ]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
    steps = settings.epochs * len(targets)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: 0.5 * (1 + math.cos(math.pi * at / steps)))
    chance = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(len(targets), generator=chance).tolist()
        optimiser.zero_grad()
        block_gradients(flow, segment, targets, order.pop(), {n: one * kept[n] for n, one in learned.items()})
        optimiser.step()
        falling.step()
    made = {name: (one * kept[name]).detach() for name, one in learned.items()}
    return made if block_error(flow, segment, targets, made) < before else dict(values)


def _typical(value: torch.Tensor, kept: torch.Tensor) -> float:
    return float((value.square().sum() / kept.sum()).sqrt())
