"""How far a stretch of a decoder with other weights is from the float model's, and the gradients of that.

mean |f(x; W) - f(x'; V)|^2        x the reference stream, x' the solved one (residual_streams.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch

from ...compiler.calibration.cores import in_order
from ...compiler.calibration.torch_graph import Segment, run
from .residual_streams import ResidualStreams

_PARTS = 2  # of a batch, each with gradients of its own


def block_error(
    flow: ResidualStreams, segment: Segment, targets: list[torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> float:
    """The error over all windows; `targets` is the reference stream behind the segment, `weights` are [N, K]."""
    constants = flow.constants({name: flow.oriented(name, w) for name, w in weights.items()})
    output = flow.output(segment)

    def of(both: tuple[torch.Tensor, torch.Tensor]) -> float:
        made = run(segment.nodes, flow.env(both[0]), constants, [output])[0]
        return float(torch.nn.functional.mse_loss(made, both[1]))

    with torch.no_grad():
        return sum(in_order(of, zip(flow.solved, targets, strict=True))) / len(targets)


def block_gradients(
    flow: ResidualStreams,
    segment: Segment,
    targets: list[torch.Tensor],
    at: int,
    values: Mapping[str, torch.Tensor],
) -> None:
    """Those of batch `at`, added to what the parameters behind `values` hold; each part of the batch on a core."""
    windows, output = len(targets[at]), flow.output(segment)
    parts = torch.arange(windows).chunk(_PARTS)

    def part(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        constants = flow.constants({name: flow.oriented(name, leaf) for name, leaf in leaves.items()})
        own = slice(int(rows[0]), int(rows[-1]) + 1)
        made = run(segment.nodes, flow.env(flow.solved[at][own]), constants, [output])[0]
        loss = torch.nn.functional.mse_loss(made, targets[at][own]) * (len(rows) / windows)
        return torch.autograd.grad(loss, list(leaves.values()))

    sums = [reduce(torch.add, some) for some in zip(*in_order(part, parts), strict=True)]
    torch.autograd.backward(list(values.values()), sums)
