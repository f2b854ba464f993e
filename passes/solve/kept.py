"""Which weights have to stay zero while integers are chosen: those of a weight that is stated to be sparse."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...compiler.ir.sparsity import SPARSITY
from ...compiler.ir.weights import Weight


def kept_of(sources: Sequence[Weight], parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Which weights of linears below each other need not stay zero; None where none of them is sparse."""
    sparse = [SPARSITY.get(source) is not None for source in sources]
    if not any(sparse):
        return None
    found = zip(parts, sparse, strict=True)
    return torch.cat([part != 0 if held else torch.ones_like(part, dtype=torch.bool) for part, held in found])
