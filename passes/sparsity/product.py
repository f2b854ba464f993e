"""A product with a matrix of all inputs, piece by piece: the library that multiplies copies what it is given whole."""

from __future__ import annotations

import torch

_NUMBERS = 1 << 22  # of the matrix at a time


def product(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """x [N, K] times `matrix` [K, M]."""
    made = x.new_zeros(len(x), matrix.shape[1])
    step = max(64, _NUMBERS // matrix.shape[1])
    for first in range(0, len(matrix), step):
        made.addmm_(x[:, first : first + step], matrix[first : first + step])
    return made
