"""The kept weights of every row re-fitted by least squares, the mask being what it is.

    minimise (w - v) H (w - v)^T over the kept v       =>      [(w - v) H]_kept = 0

By conjugate gradients for all rows at once, preconditioned by the diagonal: each row has a mask of its own, for which a
factorisation would take K^3.
"""

from __future__ import annotations

import torch

from .product import product

_STEPS = 60
_ENOUGH = 1e-6  # of the squared residual at the start


def refit(w: torch.Tensor, value: torch.Tensor, kept: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Values [N, K] with zeros where `kept` is false; `value` is where the search starts."""
    inverse = 1.0 / matrix.diagonal()
    v = torch.where(kept, value, 0.0)
    residual = torch.where(kept, product(w - v, matrix), 0.0)
    start = (residual * residual * inverse).sum(1, keepdim=True)
    direction, size = residual * inverse, start
    for _ in range(_STEPS):
        ahead = torch.where(kept, product(direction, matrix), 0.0)
        step = size / (direction * ahead).sum(1, keepdim=True).clamp_min(1e-30)
        v += step * direction
        residual -= step * ahead
        before, size = size, (residual * residual * inverse).sum(1, keepdim=True)
        if bool((size <= _ENOUGH * start).all()):
            break
        direction = residual * inverse + (size / before.clamp_min(1e-30)) * direction
    return v
