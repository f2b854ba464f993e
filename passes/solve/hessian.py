"""The Hessian of a linear's squared output error, H = 2/n sum x x^T [K, K], and what gptq needs of it.

Damping adds d * mean(diag H) to the diagonal. Inputs that are always zero get the diagonal 1, so that their weights
count alone. If the matrix is still not positive definite, d grows tenfold until it is; who damps learns how far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...compiler.diagnostics.diagnostic import EngineError, fail

_MOST = 10.0


@dataclass(frozen=True)
class Damped:
    """`upper` is the upper Cholesky factor U of the inverse, H^-1 = U^T U, in the order `order`."""

    matrix: torch.Tensor
    order: torch.Tensor
    upper: torch.Tensor
    damping: float


def damped(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """H with `damping` times its mean diagonal added."""
    made = hessian.clone()
    diagonal = made.diagonal()
    diagonal[diagonal <= 0] = 1.0
    diagonal += damping * diagonal.mean()
    return made


def prepare(name: str, hessian: torch.Tensor, damping: float, by_importance: bool) -> Damped:
    """Damp, order and factor; raises if no damping makes the matrix positive definite."""
    used = damping
    while True:
        matrix = damped(hessian, used)
        order, ordered = torch.arange(len(matrix), device=matrix.device), matrix
        if by_importance:
            order = torch.argsort(matrix.diagonal(), descending=True, stable=True)
            ordered = matrix[order][:, order]
        upper = _inverse_factor(ordered.double())
        if upper is not None:
            return Damped(matrix, order, upper.float(), used)
        used = max(10 * used, 1e-4)
        if used > _MOST:
            fail(
                "E0458",
                f"the inputs of `{name}` give no positive definite Hessian, even if damped by {_MOST:g} times its mean",
                kind=EngineError,
                help="calibrate on more or other text, or quantise this linear with a method that needs none",
            )


def _inverse_factor(matrix: torch.Tensor) -> torch.Tensor | None:
    """Each step lets go of what the one before it made: at 10,000 inputs each is 0.8 GB."""
    lower, failed = torch.linalg.cholesky_ex(matrix)
    del matrix
    if int(failed):
        return None
    inverse = torch.cholesky_inverse(lower)
    del lower
    upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    del inverse
    return None if int(failed) or not bool(torch.isfinite(upper).all()) else upper
