"""A weight that a line quantises, and the format it is to have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...compiler.ir.sparsity import SPARSITY
from ...compiler.ir.weight_format import WeightFormat
from ...compiler.ir.weights import Weight
from ..quantization.round_to_nearest import QuantizedTensors
from . import solution_cache as store
from .integer_grid import GridKind, kind_of


@dataclass(frozen=True)
class WeightToSolve:
    """One linear to solve: its float weight [N, K] and its format."""

    source: Weight
    format_: WeightFormat

    @property
    def words(self) -> str:
        """What tells it from the same numbers in another format, or whose zeros nobody has stated."""
        sparsity = SPARSITY.get(self.source)
        return repr(self.format_) if sparsity is None else f"{self.format_!r} {sparsity}"

    def loaded(self, name: str, key: str) -> QuantizedTensors:
        """What the cache has under `key`, lazy."""
        return store.load(f"{name}.weight", key, self.source, self.format_)

    @property
    def kind(self) -> GridKind:
        """The width, block and symmetry of the grid this weight is put on."""
        return kind_of(self.format_, int(np.prod(self.source.dims[1:], dtype=np.int64)))
