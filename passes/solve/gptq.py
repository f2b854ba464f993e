"""GPTQ: integers column by column, each column's error made good by the columns still to come.

    minimise  tr (W' - Q) H (W' - Q)^T        W' = W + a W D (H + dI)^-1,  D the drift of the inputs (flow.py)

    q_k = nearest(w_k),  e = (w_k - q_k) / U_kk,  w_j -= e U_kj  for j > k        H^-1 = U^T U

Frantar et al. 2022 (arXiv 2210.17323): lazy batches (section 3.3, step 2), Cholesky form (step 3). W' is the
least-squares answer to inputs that earlier rounding has moved, as in GPTAQ (arXiv 2504.02692, section 3).

Blocks of columns that share a scale are walked whole, those of the largest inputs first and within a block the same.
A block's grid is searched when it is reached, on weights that already carry the errors before it, for what its errors
cost when the columns behind it make good what they can:

    min over e_R of  e H e^T  =  e_B S e_B^T,    S = H_BB - H_BR H_RR^-1 H_RB = (U_BB^T U_BB)^-1

Up to two bits blocks are walked in their own order, and what their errors cost is H_BB.
With `act_order` columns go by falling diag H wherever they lie, over grids fixed before (static groups).

Of a sparse weight the dropped inputs stay zero (`kept` says which are not): each is rounded to zero, whatever the
columns before it would have it make good, and the columns behind it do that in its place.

Where scales have two levels (`on_levels`) the same is done once more over scales that there are, for several largest
scales a row.

Afterwards rounds of least-squares scales (given the integers) and coordinate descent (given the scales; QuantEase,
arXiv 2309.01885, section 3) lower the same objective; each step is kept only if it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ...compiler.calibration.cores import in_order
from .hessian import Damped, damped, prepare
from .integer_grid import Columns, Grid, GridKind, fit, fit_block, half
from .residual_streams import Moments
from .two_level_grid import Levels, better_levels, normal_equations

_LAZY = 64  # columns whose errors are passed on together
_PIECE, _LEAST_PIECE = 4096, 256  # rows
_ROUNDS = 2
_SWEEPS = 2
_SHRINK = 0.1
_RIDGE = 0.01
_LARGEST_PARTS = (1.0, 0.85, 0.7, 0.55)
_LEVEL_ROUNDS = 3
_FEW = 2  # bits, at which the real model loses by blocks of the largest inputs first: 1.86 for 1.60
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
    """Integers [N, K] on a grid, and the weights [N, K] they were chosen for; `kept`: those that need not be zero."""

    q: torch.Tensor
    grid: Grid
    target: torch.Tensor
    notes: list[str]
    kept: torch.Tensor | None = None

    def value(self) -> torch.Tensor:
        """The quantised weight, float32 [N, K]."""
        return self.grid.value(self.q)


def solve(
    name: str, w: torch.Tensor, moments: Moments, kind: GridKind, settings: Gptq, kept: torch.Tensor | None = None
) -> Solved:
    """`w` float32 [N, K] on grids of `kind`: linears of the same inputs may stand below each other.

    `kept` bool [N, K]: weights elsewhere stay zero; None: all are free.

    Rows are solved apart, in pieces spread over the cores.
    """
    piece = solver(name, moments, kind, settings)
    pieces = w.split(_piece(len(w)))
    masks = [None] * len(pieces) if kept is None else kept.split(_piece(len(w)))
    return joined(list(in_order(lambda both: piece(*both), zip(pieces, masks, strict=True))))


RowSolver = Callable[[torch.Tensor, torch.Tensor | None], Solved]


def solver(name: str, moments: Moments, kind: GridKind, settings: Gptq) -> RowSolver:
    """What solves rows [R, K] of weights on the inputs of `moments`; it is told which of them may differ from zero."""
    shrunk = _SHRINK * len(moments.hessian) / moments.count  # few inputs tell little of how they go together
    damping = settings.damping + shrunk
    few = kind.bits <= _FEW
    ready = prepare(name, moments.hessian, damping, settings.act_order, 0 if few else kind.block, evenly=few)
    notes = []
    if ready.damping > damping:
        notes.append(
            f"`{name}`: the inputs' Hessian was not positive definite; damped by {ready.damping:g} of its mean "
            f"diagonal instead of {damping:g}"
        )
    moved = None if moments.drift is None else settings.follow_drift * _answer(moments, moments.drift)

    def piece(rows: torch.Tensor, mask: torch.Tensor | None) -> Solved:
        target = rows if moved is None else torch.addmm(rows, rows, moved)
        q, grid = _columns(target, ready, kind, mask)
        for _ in range(settings.rounds):
            grid = _better_scales(target, q, grid, ready.matrix)
            q = descend(target, q, grid, ready.matrix, _SWEEPS, mask)
        made = Solved(q, grid, target, notes, mask)
        return on_levels(made, kind, ready) if kind.two_level else made

    return piece


def _piece(rows: int) -> int:
    """Rows that are solved together: enough that what is done for a column is little beside it."""
    return max(_LEAST_PIECE, min(_PIECE, -(-rows // 2)))


def joined(parts: list[Solved]) -> Solved:
    """Rows that were solved apart."""
    if len(parts) == 1:
        return parts[0]
    zeros = [part.grid.zero for part in parts if part.grid.zero is not None]
    scale, zero = torch.cat([part.grid.scale for part in parts]), torch.cat(zeros) if zeros else None
    grid = Grid(scale, zero, parts[0].grid.integers, parts[0].grid.block)
    q, target = torch.cat([part.q for part in parts]), torch.cat([part.target for part in parts])
    masks = [part.kept for part in parts if part.kept is not None]
    return Solved(q, grid, target, parts[0].notes, torch.cat(masks) if masks else None)


def parted(solved: Solved, counts: Sequence[int]) -> Iterator[Solved]:
    """The linears that were solved below each other, `counts` rows each."""
    at = 0
    for rows in counts:
        own, at = slice(at, at + rows), at + rows
        zero = None if solved.grid.zero is None else solved.grid.zero[own]
        grid = Grid(solved.grid.scale[own], zero, solved.grid.integers, solved.grid.block)
        kept = None if solved.kept is None else solved.kept[own]
        yield Solved(solved.q[own], grid, solved.target[own], solved.notes, kept)


def on_levels(solved: Solved, kind: GridKind, ready: Damped) -> Solved:
    """The same weights on scales of two levels, and integers chosen for these.

    What a row's scales are multiples of hangs on its largest one, so several are tried in its place: smaller ones clip
    a block and are finer for all others. Of each row the best is kept, by the objective.
    """
    w, matrix, kept, made = solved.target, ready.matrix, solved.kept, None
    for part in _LARGEST_PARTS:
        tried = _columns(w, ready, Levels.of(kind, solved.grid.scale, part), kept)
        made = _better_rows(w, made, _round_on_levels(w, *tried, matrix, kept), matrix)
    assert made is not None
    for _ in range(_LEVEL_ROUNDS):
        made = _round_on_levels(w, *made, matrix, kept)
    return Solved(*made, w, solved.notes, kept)


def _round_on_levels(
    w: torch.Tensor, q: torch.Tensor, grid: Grid, matrix: torch.Tensor, kept: torch.Tensor | None
) -> tuple[torch.Tensor, Grid]:
    grid = better_levels(w, q, grid, matrix)
    return descend(w, q, grid, matrix, _SWEEPS, kept), grid


def _better_rows(
    w: torch.Tensor, held: tuple[torch.Tensor, Grid] | None, other: tuple[torch.Tensor, Grid], matrix: torch.Tensor
) -> tuple[torch.Tensor, Grid]:
    """Of each row the integers and scales of the lower objective; `held` where they are equal."""
    if held is None:
        return other
    (q, grid), (q2, grid2) = held, other
    better = (objective(w, grid2.value(q2), matrix) < objective(w, grid.value(q), matrix))[:, None]
    scale = torch.where(better, grid2.scale, grid.scale)
    return torch.where(better, q2, q), Grid(scale, None, grid.integers, grid.block)


def _answer(moments: Moments, drift: torch.Tensor) -> torch.Tensor:
    """D (H + dI)^-1 [K, K]: W times it is what W changes by to answer moved inputs as before. Few rows: a larger d."""
    lower = torch.linalg.cholesky(damped(moments.hessian, _RIDGE + len(drift) / moments.count).double())
    return torch.cholesky_solve(drift.T.double(), lower).T.float()


def _columns(
    w: torch.Tensor, ready: Damped, kind: GridKind | Levels, kept: torch.Tensor | None
) -> tuple[torch.Tensor, Grid]:
    """Integers and their grid."""
    order, upper = ready.order, ready.upper
    plain = kind.kind if isinstance(kind, Levels) else kind
    block, columns = plain.block, Columns.blank(w, plain)
    if not ready.whole:
        held = w if kept is None else torch.where(kept, w, 0.0)
        found = kind.fit(held, ready.matrix) if isinstance(kind, Levels) else fit(held, kind, ready.matrix)
        columns = Columns.of(found)
    left, free = w[:, order].contiguous(), None if kept is None else kept[:, order]
    q = torch.empty_like(left)
    places = order.tolist()
    step = block * max(1, _LAZY // block)
    for first in range(0, len(places), step):
        last = min(first + step, len(places))
        part = left[:, first:last].T.contiguous()  # [columns, N], as they are walked
        mask = None if free is None else free[:, first:last].T.contiguous()
        chosen, errors = torch.empty_like(part), torch.empty_like(part)
        for i, k in enumerate(range(first, last)):
            group = places[k] // block
            if ready.whole and k % block == 0:
                own = (
                    part[i : i + block] if mask is None else torch.where(mask[i : i + block], part[i : i + block], 0.0)
                )
                _refit(
                    columns, own.T, _left_to_cost(ready, k, block, mask is not None or plain.bits <= _FEW), kind, group
                )
            chosen[i] = columns.nearest(part[i] if mask is None else torch.where(mask[i], part[i], 0.0), group)
            errors[i] = (part[i] - columns.value(chosen[i], group)) / upper[k, k]
            part[i + 1 :].addr_(upper[k, k + 1 : last], errors[i], alpha=-1)
        q[:, first:last] = chosen.T
        left[:, last:] -= errors.T @ upper[first:last, last:]
    return q[:, torch.argsort(order)], columns.grid()


def _left_to_cost(ready: Damped, first: int, block: int, alone: bool) -> torch.Tensor:
    """S [B, B] of the block at place `first`; H_BB where it counts `alone`: sparse rows each have other columns to make
    good, and what few integers leave is more than the columns behind can.
    """
    if alone or block == len(ready.order):
        own = ready.order[first : first + block]
        return ready.matrix[own[:, None], own]
    upper = ready.upper[first : first + block, first : first + block].double()
    return torch.cholesky_inverse(upper.T.contiguous()).float()


def _refit(columns: Columns, w: torch.Tensor, hessian: torch.Tensor, kind: GridKind | Levels, group: int) -> None:
    if isinstance(kind, Levels):
        columns.scale[group] = kind.fit_block(w.contiguous(), hessian, group)
        return
    scale, zero = fit_block(w.contiguous(), kind, hessian)
    columns.scale[group] = scale
    if columns.zero is not None and zero is not None:
        columns.zero[group] = zero


def objective(w: torch.Tensor, value: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(w - value) H (w - value)^T per row [N]."""
    e = w - value
    return ((e @ matrix) * e).sum(1)


def descend(
    w: torch.Tensor,
    q: torch.Tensor,
    grid: Grid,
    matrix: torch.Tensor,
    sweeps: int,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """Coordinate descent: each integer in turn is the best given all others. Never worse. Those not kept stay."""
    columns, value = Columns.of(grid), grid.value(q)
    pull = (w - value) @ matrix
    diagonal = matrix.diagonal().tolist()
    q = q.clone()
    for _ in range(sweeps):
        for first in range(0, w.shape[1], _LAZY):
            last = min(first + _LAZY, w.shape[1])
            before, local = (x[:, first:last].T.contiguous() for x in (value, pull))  # [columns, N], as they are walked
            mask = None if kept is None else kept[:, first:last].T.contiguous()
            chosen, after = torch.empty_like(before), torch.empty_like(before)
            for i, k in enumerate(range(first, last)):
                group = k // grid.block
                best = before[i] + local[i] / diagonal[k]
                chosen[i] = columns.nearest(best if mask is None else torch.where(mask[i], best, 0.0), group)
                after[i] = columns.value(chosen[i], group)
                local[i + 1 :].addr_(matrix[k, k + 1 : last], after[i] - before[i], alpha=-1)
            q[:, first:last], value[:, first:last] = chosen.T, after.T
            pull -= (after - before).T @ matrix[first:last]
    return q


def _better_scales(w: torch.Tensor, q: torch.Tensor, grid: Grid, matrix: torch.Tensor) -> Grid:
    """Least-squares scales for the integers there are, A s = b, per row where that lowers the objective."""
    v = q if grid.zero is None else q - grid.zero.repeat_interleave(grid.block, 1)
    scale = grid.scale.clone()
    for own, left, right in normal_equations(w, v, grid.block, matrix):
        left.diagonal(dim1=1, dim2=2).add_(1e-6 * left.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-30)
        scale[own] = torch.linalg.solve(left, right)
    scale = half(torch.where(scale / grid.scale > _TIMID, scale, grid.scale))
    made = Grid(scale, grid.zero, grid.integers, grid.block)
    better = objective(w, made.value(q), matrix) < objective(w, grid.value(q), matrix)
    made.scale = torch.where(better[:, None], made.scale, grid.scale)
    return made
