"""A weight transposed from [N, K] to the [K, N] that MatMul reads; all of it is in memory while it is written."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....compiler.ir.weights import Weight


class TransposedWeight(Weight):
    """Rows of the transposed matrix; one block, since each of its rows needs all rows of the source."""

    def blocks(self, limit: int = 0, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """One block with all rows: the transpose of a few rows would read the whole source for each."""
        yield 0, self.numpy()
