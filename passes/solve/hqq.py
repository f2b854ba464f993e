"""Half-quadratic quantisation: grids for which most weights are met well and a few outliers may be missed.

    minimise over scale, zero, E   |E|_p^p + beta/2 |W - E - (q - zero) * scale|^2        p = 0.7

Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models", section "Half-Quadratic Solver":
E by generalised soft thresholding, then zero by its mean (symmetric grids: scale by least squares), then beta grows.
Zeros are rounded to integers, which is how they are stored; a step is kept where it lowers |W - Q|_p^p. The start is
the grid that spans each block. No calibration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .integer_grid import Grid, GridKind, half, spanning


@dataclass(frozen=True)
class Hqq:
    """The solver's constants, the paper's."""

    power: float = 0.7
    beta: float = 10.0
    growth: float = 1.01
    rounds: int = 20


def solve(w: torch.Tensor, kind: GridKind, settings: Hqq) -> tuple[torch.Tensor, Grid]:
    """Integers of the rows `w` [R, K] and their grid."""
    grid = spanning(w, kind)
    blocks, beta = grid.blocks(w), settings.beta
    best = _cost(w, grid, settings)
    for _ in range(settings.rounds):
        left = blocks - grid.blocks(grid.value(grid.quantise(w)))
        outliers = _shrink(left, beta / blocks.abs().amax(-1, keepdim=True).clamp_min(1e-12), settings.power)
        trial = _refit(w, blocks - outliers, grid)
        cost = _cost(w, trial, settings)
        better = cost < best
        grid.scale = torch.where(better, trial.scale, grid.scale)
        if grid.zero is not None and trial.zero is not None:
            grid.zero = torch.where(better, trial.zero, grid.zero)
        best = torch.where(better, cost, best)
        beta *= settings.growth
    return grid.quantise(w), grid


def _refit(w: torch.Tensor, wanted: torch.Tensor, grid: Grid) -> Grid:
    """The grid that answers `wanted` [R, K/B, B] best, the integers being those of `w` now."""
    q = grid.blocks(grid.quantise(w))
    if grid.zero is None:
        scale = (q * wanted).sum(-1) / q.pow(2).sum(-1).clamp_min(1.0)
        return Grid(half(torch.where(scale / grid.scale > 0, scale, grid.scale)), None, grid.integers, grid.block)
    zero = torch.round((q - wanted / grid.scale[..., None]).mean(-1)).clamp_(0, grid.integers.high)
    v = q - zero[..., None]
    scale = (v * wanted).sum(-1) / v.pow(2).sum(-1).clamp_min(1.0)
    return Grid(half(torch.where(scale > 0, scale, grid.scale)), zero, grid.integers, grid.block)


def _shrink(e: torch.Tensor, beta: torch.Tensor, power: float) -> torch.Tensor:
    """sign(e) max(0, |e| - |e|^(p-1) / beta): the outlier part of `e`."""
    size = e.abs()
    return torch.sign(e) * (size - size.clamp_min(1e-8).pow(power - 1) / beta).clamp_min(0)


def _cost(w: torch.Tensor, grid: Grid, settings: Hqq) -> torch.Tensor:
    e = grid.blocks(w - grid.value(grid.quantise(w)))
    return e.abs().pow(settings.power).sum(-1)
