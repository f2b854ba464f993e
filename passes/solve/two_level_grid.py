"""Grids whose scales have two levels: s = i * c, i = 1 .. 15 for each block and a float c for each row (LPBQ).

    c has 7 bits, so that float16 holds every i * c     one block of a row, its anchor, has i = 15: c is read off it

A block's i is searched like any other scale, over all fifteen. Given the integers q the objective is quadratic in the
scales, s A s - 2 b s with A and b of `normal_equations`: each i in turn is made the best there is, then c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .integer_grid import SMALLEST, Grid, GridKind, error, nearest_

MOST = 15
_CHUNK = 1 << 16  # elements of one candidate's error that are made at once
_ROWS = 1 << 21  # numbers that the equations of the rows solved together hold
_MANTISSA = 128.0


@dataclass(frozen=True)
class Levels:
    """What scales may be: `channel` c [N], and the block `anchor` [N] of each row whose i is 15."""

    kind: GridKind
    channel: torch.Tensor
    anchor: torch.Tensor

    @classmethod
    def of(cls, kind: GridKind, scale: torch.Tensor, part: float) -> Levels:
        """For scales like `scale` [N, K/B], the largest of each row cut to a `part` of it."""
        largest, anchor = scale.max(1)
        return cls(kind, channel(largest * (part / MOST)), anchor)

    def fit_block(self, w: torch.Tensor, hessian: torch.Tensor, group: int) -> torch.Tensor:
        """The scale [N] of least e H e^T for the weights [N, B] of block `group`."""
        rows = max(1, _CHUNK // w.shape[1])
        starts = range(0, len(w), rows)
        return torch.cat([self._fit(w[at : at + rows], hessian, group, slice(at, at + rows)) for at in starts])

    def _fit(self, w: torch.Tensor, hessian: torch.Tensor, group: int, own: slice) -> torch.Tensor:
        c, anchored = self.channel[own], self.anchor[own] == group
        best, scale = torch.full_like(c, torch.inf), c * MOST
        for i in range(1, MOST + 1):
            tried = c * i
            q = nearest_(w / tried[:, None], self.kind.integers)
            found = error(q.mul_(-tried[:, None]).add_(w), hessian)
            better = (found < best) & ~anchored
            best, scale = torch.where(better, found, best), torch.where(better, tried, scale)
        return scale

    def fit(self, w: torch.Tensor, hessian: torch.Tensor) -> Grid:
        """The grid of `w` [N, K], each block weighted by its part of `hessian` [K, K]."""
        size = self.kind.block
        cuts = [slice(at, at + size) for at in range(0, w.shape[1], size)]
        scales = [self.fit_block(w[:, cut], hessian[cut, cut], group) for group, cut in enumerate(cuts)]
        return Grid(torch.stack(scales, 1), None, self.kind.integers, size)


def channel(c: torch.Tensor) -> torch.Tensor:
    """`c` to the nearest number of 7 bits that float16 holds, and not zero."""
    mantissa, exponent = torch.frexp(c)
    made = torch.ldexp((mantissa * _MANTISSA).round() / _MANTISSA, exponent)
    return ((made / SMALLEST).round() * SMALLEST).clamp_min(SMALLEST)


def channel_of(scale: torch.Tensor) -> torch.Tensor:
    """c [N, 1] of scales [N, K/B] of two levels."""
    return scale.amax(1, keepdim=True) / MOST


def normal_equations(
    w: torch.Tensor, q: torch.Tensor, block: int, matrix: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Rows, their A [R, K/B, K/B] and b [R, K/B]: (w - s q) H (w - s q)^T = s A s - 2 b s + w H w, q less its zeros.

    With v_g the integers of block g:  A_gh = v_g H_gh v_h^T,  b_g = (w H)_g v_g^T
    """
    n, groups = len(w), w.shape[1] // block
    v = q.reshape(n, groups, block)
    right = ((w @ matrix).reshape(n, groups, block) * v).sum(-1)
    rows = max(1, _ROWS // (w.shape[1] * groups))
    for at in range(0, n, rows):
        part = v[at : at + rows]
        spread = torch.zeros(len(part), groups, w.shape[1], device=w.device)
        for g in range(groups):
            spread[:, g] = part[:, g] @ matrix[g * block : (g + 1) * block]
        left = (spread.reshape(len(part), groups, groups, -1) * part[:, None]).sum(-1)
        yield slice(at, at + rows), left, right[at : at + rows]


def better_levels(w: torch.Tensor, q: torch.Tensor, grid: Grid, matrix: torch.Tensor) -> Grid:
    """The grid of two levels with each i and then each c as the integers would have it. Never worse."""
    scale = grid.scale.clone()
    for own, left, right in normal_equations(w, q, grid.block, matrix):
        scale[own] = _descended(grid.scale[own], left, right)
    return Grid(scale, None, grid.integers, grid.block)


def _descended(scale: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    c, anchor = channel_of(scale)[:, 0], scale.argmax(1)
    i, diagonal = (scale / c[:, None]).round(), left.diagonal(dim1=1, dim2=2)
    for g in range(scale.shape[1]):
        free = (anchor != g) & (diagonal[:, g] > 0)
        pull = right[:, g] / c - (left[:, g] * i).sum(1)
        best = (i[:, g] + pull / diagonal[:, g].clamp_min(SMALLEST)).round().clamp(1, MOST)
        i[:, g] = torch.where(free, best, i[:, g])
    square, product = ((left @ i[..., None])[..., 0] * i).sum(1), (right * i).sum(1)
    moved = channel(product / square.clamp_min(SMALLEST))
    lower = moved * (square * moved - 2 * product) < c * (square * c - 2 * product)
    return i * torch.where(lower & (product > 0), moved, c)[:, None]
