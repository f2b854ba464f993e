"""The Hessian of a linear's squared output error, H = 2/n sum x x^T [K, K], and what gptq needs of it.

Damping adds d * mean(diag H) to the diagonal, or d * sqrt(H_kk mean(diag H)) where inputs are as unlike as a decoder's.
Inputs that are always zero get the diagonal 1, so that their weights count alone. If the matrix is still not positive
definite, d grows tenfold until it is; who damps learns how far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...compiler.diagnostics.diagnostic import EngineError, fail

_MOST = 10.0


@dataclass(frozen=True)
class Damped:
    """`upper` is the upper Cholesky factor U of the inverse, H^-1 = U^T U, in the order `order`.

    `whole`: blocks follow each other whole in that order, so that a block's grid can be chosen when it is reached.
    """

    matrix: torch.Tensor
    order: torch.Tensor
    upper: torch.Tensor
    damping: float
    whole: bool = True


def damped(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """H with `damping` times its mean diagonal added."""
    made = hessian.clone()
    diagonal = made.diagonal()
    diagonal[diagonal <= 0] = 1.0
    diagonal += damping * diagonal.mean()
    return made


def damp_between(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Add `damping` times the geometric mean of each input's diagonal and the mean one to `hessian` itself.

    Where a few inputs are hundreds of times as large as the others, a part of the mean alone hides what the others say.
    """
    diagonal = hessian.diagonal()
    diagonal[diagonal <= 0] = 1.0
    diagonal += damping * (diagonal * diagonal.mean()).sqrt()
    return hessian


def prepare(
    name: str, hessian: torch.Tensor, damping: float, by_importance: bool, block: int = 0, evenly: bool = False
) -> Damped:
    """Damp, order and factor; raises if no damping makes the matrix positive definite.

    `by_importance`: the inputs of largest diagonal come first, wherever they lie; else the blocks of `block` inputs of
    largest diagonals and within each its largest first, or all as they are (0). `evenly`: every input is damped alike.
    """
    used = damping
    while True:
        matrix = damped(hessian, used) if evenly else damp_between(hessian.clone(), used)
        order, ordered = torch.arange(len(matrix), device=matrix.device), matrix
        if by_importance or block:
            sizes = matrix.diagonal()
            order = torch.argsort(sizes, descending=True, stable=True) if by_importance else by_blocks(sizes, block)
            ordered = matrix[order[:, None], order]
        upper = _inverse_factor(ordered.double())
        if upper is not None:
            return Damped(matrix, order, upper.float(), used, whole=not by_importance)
        used = max(10 * used, 1e-4)
        if used > _MOST:
            fail(
                "E0458",
                f"the inputs of `{name}` give no positive definite Hessian, even if damped by {_MOST:g} times its mean",
                kind=EngineError,
                help="calibrate on more or other text, or quantise this linear with a method that needs none",
            )


def by_blocks(sizes: torch.Tensor, block: int) -> torch.Tensor:
    """The order [K] of the inputs in which blocks of the largest sum of `sizes` come first, and so within each."""
    blocks = sizes.reshape(-1, block)
    inner = torch.argsort(blocks, dim=1, descending=True, stable=True)
    outer = torch.argsort(blocks.sum(1), descending=True, stable=True)
    first = torch.arange(0, len(sizes), block, device=sizes.device)[:, None]
    return (first + inner)[outer].flatten()


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
