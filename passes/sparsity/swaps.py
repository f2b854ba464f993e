"""Exact swaps within groups: which kept unit goes for which dropped one so that the output error falls most.

    error of a row   L = e H e^T,  e = w - v,  g = e H

    unit i goes      L rises by  2 v_i g_i + v_i H_ii v_i^T      and  g' = g + v_i H_i
    unit j comes     L falls by  2 x g'_j - x H_jj x^T           x = g'_j H_jj^-1, or x = w_j where values stay
    i = j            nothing is swapped, and v_i becomes the best value given all others

SparseSwaps (arXiv 2512.10922): all pairs of a group are tried on the Gram matrix, the best is taken, group after group
and again until a sweep gains nothing. There values stay those of the dense model (`refit = False`, after wanda). With
`refit` each step also sets the value that comes: masks and values descend together. No step raises the error.
"""

from __future__ import annotations

import torch

from ...compiler.ir.sparse_pattern import Sparsity
from .product import product
from .units import in_rows, in_units

_LAZY = 64  # inputs whose changes are passed on together
_ENOUGH = 2e-4  # of the error: a sweep that gains less is the last


def swap(
    w: torch.Tensor,
    value: torch.Tensor,
    kept: torch.Tensor,
    matrix: torch.Tensor,
    sparsity: Sparsity,
    refit: bool,
    sweeps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Better values and masks [N, K] for the targets `w`, from those given; `matrix` is H."""
    state = _Search(w, value.clone(), kept.clone(), matrix, sparsity, refit)
    before = state.error()
    for _ in range(sweeps):
        state.sweep()
        after = state.error()
        if before - after < _ENOUGH * before:
            break
        before = after
    return state.value, state.kept


class _Search:
    def __init__(
        self,
        w: torch.Tensor,
        value: torch.Tensor,
        kept: torch.Tensor,
        matrix: torch.Tensor,
        sparsity: Sparsity,
        refit: bool,
    ) -> None:
        self.w, self.value, self.kept, self.matrix, self.sparsity, self.refit = w, value, kept, matrix, sparsity, refit
        self.pull = product(w - value, matrix)  # g
        self.units, self.size = len(sparsity.units), len(sparsity.units[0])

    def error(self) -> float:
        """The summed error of all rows."""
        return float(((self.w - self.value) * self.pull).sum())

    def sweep(self) -> None:
        """One step in each group."""
        group = self.sparsity.group
        step = group * max(1, _LAZY // group)
        for first in range(0, self.w.shape[1], step):
            last = min(first + step, self.w.shape[1])
            pull, before = self.pull[:, first:last].clone(), self.value[:, first:last].clone()
            for at in range(first, last, group):
                change = self._step(at, pull[:, at - first : at - first + group])
                pull -= change @ self.matrix[at : at + group, first:last]
            self.pull -= (self.value[:, first:last] - before) @ self.matrix[first:last]

    def _step(self, at: int, pull: torch.Tensor) -> torch.Tensor:
        """The best move of every row in the group at input `at`; what its values change by [N, group]."""
        own = slice(at, at + self.sparsity.group)
        block = self._block(own)  # [U, S, U, S]
        v, g, w = (in_units(x, self.sparsity)[:, 0] for x in (self.value[:, own], pull, self.w[:, own]))  # [N, U, S]
        kept = in_units(self.kept[:, own], self.sparsity)[:, 0, :, 0]  # [N, U]
        own_blocks = torch.stack([block[u, :, u] for u in range(self.units)])  # [U, S, S]
        loss = (v * (2 * g + torch.einsum("nua,uab->nub", v, own_blocks))).sum(-1)  # [N, U]
        after = g[:, None] + torch.einsum("nua,uavb->nuvb", v, block)  # [N, U gone, U come, S]
        if self.refit:
            come = torch.einsum("nuva,vab->nuvb", after, torch.linalg.inv(own_blocks))
            gain = (come * after).sum(-1)
        else:
            come = w[:, None].expand(after.shape)
            gain = (come * (2 * after - torch.einsum("nuva,vab->nuvb", come, own_blocks))).sum(-1)
        rise = loss[..., None] - gain  # [N, U, U]
        same = torch.eye(self.units, dtype=torch.bool, device=v.device)
        possible = kept[:, :, None] & (same | ~kept[:, None])
        best, place = rise.masked_fill(~possible, torch.inf).flatten(1).min(1)
        gone, comes = place // self.units, place % self.units
        rows = torch.arange(len(v), device=v.device)[best < 0]
        gone, comes = gone[rows], comes[rows]
        made, mask = v.clone(), kept.clone()
        made[rows, gone], mask[rows, gone] = 0.0, False
        made[rows, comes], mask[rows, comes] = come[rows, gone, comes], True
        change = in_rows((made - v)[:, None])  # before `value`, which v is a view of
        self.value[:, own] = in_rows(made[:, None])
        self.kept[:, own] = in_rows(mask[:, None, :, None].expand(-1, -1, -1, self.size))
        return change

    def _block(self, own: slice) -> torch.Tensor:
        """H within a group, by unit and input of the unit on both sides."""
        block = self.matrix[own, own].reshape(self.size, self.units, self.size, self.units)
        return block.permute(1, 0, 3, 2)
