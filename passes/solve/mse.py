"""Clip search alone: per row and block the scale (and zero) whose rounding to nearest errs least, sum (w - q)^2.

Needs no calibration: rows are read, solved and forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .integer_grid import Grid, GridKind, fit


@dataclass(frozen=True)
class Mse:
    """No settings."""


def solve(w: torch.Tensor, kind: GridKind, settings: Mse) -> tuple[torch.Tensor, Grid]:
    """Integers of the rows `w` [R, K] and their grid."""
    grid = fit(w, kind)
    return grid.quantise(w), grid
