"""The upper Cholesky factor of an inverse, in the room of one matrix: H^-1 = U^T U, U = R^-1 for H = R R^T.

    from the last block of rows s to the first:   R_ss R_ss^T = A_ss,   P = A_:s,s R_ss^-T,   A_:s,:s -= P P^T
                                                  U_s,> = -R_ss^-1 R_s,> U_>,>

R is upper triangular. At 10,000 inputs a matrix has 0.4 GB, and an inverse made first in float64 twice that.
"""

from __future__ import annotations

import torch

from ...compiler.diagnostics.diagnostic import EngineError, fail

_BLOCK = 512
_EXACT = 4096  # inputs up to which there is room for float64
_MOST = 10.0


def damp(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Add `damping` times the mean diagonal to `hessian` itself; inputs that are always zero get the diagonal 1."""
    diagonal = hessian.diagonal()
    diagonal[diagonal <= 0] = 1.0
    diagonal += damping * diagonal.mean()
    return hessian


def inverse_factor(name: str, matrix: torch.Tensor, order: torch.Tensor | None = None) -> torch.Tensor:
    """U [K, K], float32, of the inputs in `order`; `name` is for errors.

    `matrix` is damped further, in place, until it is positive definite.
    """
    more = 1e-3
    while True:
        work = matrix.clone() if order is None else matrix[order[:, None], order]
        work = work.double() if len(matrix) <= _EXACT else work
        if _factor(work):
            return work.float() if work.dtype == torch.float64 else work
        del work
        if more > _MOST:
            fail(
                "E0458",
                f"the inputs of `{name}` give no positive definite Hessian, even if damped by {_MOST:g} times its mean",
                kind=EngineError,
                help="calibrate on more or other text, or prune this linear with `method = magnitude`",
            )
        damp(matrix, more)
        more *= 10


def _factor(a: torch.Tensor) -> bool:
    """Put U in the place of `a`; False where it is not positive definite."""
    for first in reversed(range(0, len(a), _BLOCK)):
        last = min(first + _BLOCK, len(a))
        lower, failed = torch.linalg.cholesky_ex(a[first:last, first:last].flip(0, 1))
        if int(failed):
            return False
        inverse = torch.linalg.solve_triangular(
            lower, torch.eye(last - first, dtype=a.dtype, device=a.device), upper=False
        )
        inverse = inverse.flip(0, 1)  # of R_ss
        panel = a[:first, first:last] @ inverse.T
        a[:first, :first].addmm_(panel, panel.T, alpha=-1)
        a[:first, first:last] = panel
        a[first:last, last:] = -inverse @ (a[first:last, last:] @ a[last:, last:])
        a[first:last, first:last] = inverse
        a[last:, first:last] = 0.0
    return bool(torch.isfinite(a.diagonal()).all())
