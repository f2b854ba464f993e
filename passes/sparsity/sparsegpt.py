"""SparseGPT: weights pruned group by group along the inputs, each error made good by the inputs still to come.

    minimise  tr (W' - V) H (W' - V)^T      V in the pattern, H the second moments of the linear's inputs

    at the first input of a group:  the units of largest  sum w_k^2 / U_kk^2  are kept        H^-1 = U^T U
    v_k = w_k or 0,   e = (w_k - v_k) / U_kk,   w_j -= e U_kj  for j > k

Frantar and Alistarh 2023 (arXiv 2301.00774), sections 3.2 to 3.4 and its form for N:M. Blocks of inputs as in gptq, and
like there groups of large inputs are put in front (`solve.py`), where more is behind them that can make good.
"""

from __future__ import annotations

import torch

from ...compiler.ir.sparse_pattern import Sparsity
from .units import kept_by

_LAZY = 64  # inputs whose errors are passed on together


def sparsegpt(w: torch.Tensor, upper: torch.Tensor, sparsity: Sparsity) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [N, K] and which of them are kept, for the targets `w` [N, K]. `upper` is U."""
    group = sparsity.group
    left = w.clone()
    value, kept = torch.zeros_like(w), torch.zeros_like(w, dtype=torch.bool)
    step = group * max(1, _LAZY // group)
    for first in range(0, w.shape[1], step):
        last = min(first + step, w.shape[1])
        part = left[:, first:last].T.contiguous()  # [inputs, N], as they are walked
        errors, mask = torch.empty_like(part), torch.empty_like(part, dtype=torch.bool)
        for i, k in enumerate(range(first, last)):
            if k % group == 0:
                own = upper.diagonal()[k : k + group, None]
                mask[i : i + group] = kept_by((part[i : i + group] / own).square().T, sparsity).T
            errors[i] = torch.where(mask[i], 0.0, part[i]) / upper[k, k]
            part[i + 1 :].addr_(upper[k, k + 1 : last], errors[i], alpha=-1)
        value[:, first:last], kept[:, first:last] = torch.where(mask, part, 0.0).T, mask.T
        left[:, last:] -= errors.T @ upper[first:last, last:]
    return value, kept
