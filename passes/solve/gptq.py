"""GPTQ: integers column by column, each column's error made good by the columns still to come.

    minimise  tr (W' - Q) H (W' - Q)^T        W' = W + a W D (H + dI)^-1,  D the drift of the inputs (flow.py)

    q_k = nearest(w_k),  e = (w_k - q_k) / U_kk,  w_j -= e U_kj  for j > k        H^-1 = U^T U

Frantar et al. 2022 (arXiv 2210.17323): lazy batches (section 3.3, step 2), Cholesky form (step 3). W' is the
least-squares answer to inputs that earlier rounding has moved, as in GPTAQ (arXiv 2504.02692, section 3). With
`act_order` columns go by falling diag H over grids fixed before (static groups), so that blocks stay in natural order;
without it each block's grid is searched when it is reached, on weights that already carry the errors before it.

Afterwards rounds of least-squares scales (given the integers) and coordinate descent (given the scales; QuantEase,
arXiv 2309.01885, section 3) lower the same objective; each step is kept only if it does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .hessian import Damped, damped, prepare
from .integer_grid import Columns, Grid, GridKind, fit, fit_block, half
from .residual_streams import Moments

_LAZY = 128  # columns whose errors are passed on together
_ROWS = 1 << 21  # numbers that least-squares scales hold at once
_ROUNDS = 2
_SWEEPS = 2
_SHRINK = 0.1
_RIDGE = 0.01
_TIMID = 0.3  # a least-squares scale below this part of the searched one is not believed


@dataclass(frozen=True)
class Gptq:
    """The method's settings."""

    damping: float = 0.01
    act_order: bool = False
    follow_drift: float = 1.0
    rounds: int = _ROUNDS


@dataclass
class Solved:
    """Integers [N, K] on a grid, and the weights [N, K] they were chosen for."""

    q: torch.Tensor
    grid: Grid
    target: torch.Tensor
    notes: list[str]

    def value(self) -> torch.Tensor:
        """The quantised weight, float32 [N, K]."""
        return self.grid.value(self.q)


def solve(name: str, w: torch.Tensor, moments: Moments, kind: GridKind, settings: Gptq) -> Solved:
    """`w` float32 [N, K] on grids of `kind`."""
    damping = settings.damping + _SHRINK * w.shape[1] / moments.count  # few rows tell little of how inputs go together
    ready = prepare(name, moments.hessian, damping, settings.act_order)
    notes = []
    if ready.damping > damping:
        notes.append(
            f"`{name}`: the inputs' Hessian was not positive definite; damped by {ready.damping:g} of its mean "
            f"diagonal instead of {damping:g}"
        )
    target = w
    if moments.drift is not None:
        target = w + settings.follow_drift * _followed(w, moments, moments.drift)
    q, grid = _columns(target, ready, kind)
    for _ in range(settings.rounds):
        grid = _better_scales(target, q, grid, ready.matrix)
        q = descend(target, q, grid, ready.matrix, _SWEEPS)
    return Solved(q, grid, target, notes)


def rescaled(solved: Solved, scale: torch.Tensor, hessian: torch.Tensor, damping: float) -> Solved:
    """The same weights on a grid with the given scales [N, K/B]: rounded, then coordinate descent."""
    grid = Grid(scale, solved.grid.zero, solved.grid.bits, solved.grid.block)
    q = descend(solved.target, grid.quantise(solved.target), grid, damped(hessian, damping), 2 * _SWEEPS)
    return Solved(q, grid, solved.target, solved.notes)


def _followed(w: torch.Tensor, moments: Moments, drift: torch.Tensor) -> torch.Tensor:
    """W D (H + dI)^-1: what the weights change by to answer moved inputs as before. Few rows: a larger ridge d."""
    ridge = damped(moments.hessian, _RIDGE + len(drift) / moments.count)
    return torch.linalg.solve(ridge.double(), (w @ drift).T.double()).T.float()


def _columns(w: torch.Tensor, ready: Damped, kind: GridKind) -> tuple[torch.Tensor, Grid]:
    order, upper = ready.order, ready.upper
    static = bool((order[1:] < order[:-1]).any())
    columns, block = Columns.of(fit(w, kind, ready.matrix)) if static else Columns.blank(w, kind), kind.block
    left = w[:, order].contiguous()
    q = torch.empty_like(left)
    places = order.tolist()
    step = block * max(1, _LAZY // block)
    for first in range(0, len(places), step):
        last = min(first + step, len(places))
        part = left[:, first:last].T.contiguous()  # [columns, N], as they are walked
        chosen, errors = torch.empty_like(part), torch.empty_like(part)
        for i, k in enumerate(range(first, last)):
            group = places[k] // block
            if not static and k % block == 0:
                _refit(columns, part[i : i + block].T, ready.matrix[k : k + block, k : k + block], kind, group)
            chosen[i] = columns.nearest(part[i], group)
            errors[i] = (part[i] - columns.value(chosen[i], group)) / upper[k, k]
            part[i + 1 :] -= upper[k, k + 1 : last, None] * errors[i]
        q[:, first:last] = chosen.T
        left[:, last:] -= errors.T @ upper[first:last, last:]
    return q[:, torch.argsort(order)], columns.grid()


def _refit(columns: Columns, w: torch.Tensor, hessian: torch.Tensor, kind: GridKind, group: int) -> None:
    scale, zero = fit_block(w.contiguous(), kind, hessian)
    columns.scale[group] = scale
    if columns.zero is not None and zero is not None:
        columns.zero[group] = zero


def objective(w: torch.Tensor, value: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(w - value) H (w - value)^T per row [N]."""
    e = w - value
    return ((e @ matrix) * e).sum(1)


def descend(w: torch.Tensor, q: torch.Tensor, grid: Grid, matrix: torch.Tensor, sweeps: int) -> torch.Tensor:
    """Coordinate descent: each integer in turn is the best given all others. Never worse."""
    columns, value = Columns.of(grid), grid.value(q)
    pull = (w - value) @ matrix
    diagonal = matrix.diagonal().tolist()
    q = q.clone()
    for _ in range(sweeps):
        for first in range(0, w.shape[1], _LAZY):
            last = min(first + _LAZY, w.shape[1])
            before, local = (x[:, first:last].T.contiguous() for x in (value, pull))  # [columns, N], as they are walked
            chosen, after = torch.empty_like(before), torch.empty_like(before)
            for i, k in enumerate(range(first, last)):
                group = k // grid.block
                chosen[i] = columns.nearest(before[i] + local[i] / diagonal[k], group)
                after[i] = columns.value(chosen[i], group)
                local[i + 1 :] -= matrix[k, k + 1 : last, None] * (after[i] - before[i])
            q[:, first:last], value[:, first:last] = chosen.T, after.T
            pull -= (after - before).T @ matrix[first:last]
    return q


def _better_scales(w: torch.Tensor, q: torch.Tensor, grid: Grid, matrix: torch.Tensor) -> Grid:
    """Least-squares scales for the integers there are, per row where that lowers the objective.

    With v_g the integers of block g:  A_gh = v_g H_gh v_h^T,  b_g = (w H)_g v_g^T,  A s = b        [K/B, K/B] per row
    """
    n, groups = grid.scale.shape
    v = grid.blocks(q if grid.zero is None else q - grid.zero.repeat_interleave(grid.block, 1))
    right = (grid.blocks(w @ matrix) * v).sum(-1)
    scale = grid.scale.clone()
    rows = max(1, _ROWS // (w.shape[1] * groups))
    for at in range(0, n, rows):
        part = v[at : at + rows]
        spread = torch.zeros(len(part), groups, w.shape[1], device=w.device)
        for g in range(groups):
            spread[:, g] = part[:, g] @ matrix[g * grid.block : (g + 1) * grid.block]
        left = (spread.reshape(len(part), groups, groups, -1) * part[:, None]).sum(-1)
        left.diagonal(dim1=1, dim2=2).add_(1e-6 * left.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-30)
        scale[at : at + rows] = torch.linalg.solve(left, right[at : at + rows])
    scale = half(torch.where(scale / grid.scale > _TIMID, scale, grid.scale))
    made = Grid(scale, grid.zero, grid.bits, grid.block)
    better = objective(w, made.value(q), matrix) < objective(w, grid.value(q), matrix)
    made.scale = torch.where(better[:, None], made.scale, grid.scale)
    return made
