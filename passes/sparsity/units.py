"""Weights seen in the groups and units of a pattern.

w [N, K]  ->  [N, G, U, S]      G groups of a row, U units of a group, S inputs of a unit
"""

from __future__ import annotations

import torch

from ...compiler.ir.sparse_pattern import Sparsity


def in_units(w: torch.Tensor, sparsity: Sparsity) -> torch.Tensor:
    """[N, K] -> [N, G, U, S]: the inputs of a unit stand U apart."""
    units = sparsity.units
    return w.reshape(len(w), -1, len(units[0]), len(units)).mT


def in_rows(units: torch.Tensor) -> torch.Tensor:
    """The inverse of `in_units`."""
    return units.mT.reshape(len(units), -1)


def largest(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Which `keep` units of the last axis have the largest scores: bool of the same shape."""
    chosen = scores.topk(keep, -1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True)


def kept_by(scores: torch.Tensor, sparsity: Sparsity) -> torch.Tensor:
    """The weights [N, K] that are kept: of each group the units whose summed scores [N, K] are largest."""
    units = in_units(scores, sparsity)
    chosen = largest(units.sum(-1), sparsity.keep)
    return in_rows(chosen[..., None].expand(units.shape))


def by_groups(sizes: torch.Tensor, sparsity: Sparsity) -> torch.Tensor:
    """The order [K] of the inputs in which groups of the largest sum of `sizes` [K] come first, each as it is."""
    groups = sizes.reshape(-1, sparsity.group)
    first = torch.argsort(groups.sum(1), descending=True, stable=True)[:, None] * sparsity.group
    return (first + torch.arange(sparsity.group, device=sizes.device)).flatten()
