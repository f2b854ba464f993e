"""A weight turned from [N, K] to the [K, N] that MatMul reads. The one matrix is held whole while it is written."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....compiler.ir.weights import Weight


class Turned(Weight):
    """Rows of the turned matrix; one block, since turning needs all rows of the source."""

    def blocks(self, limit: int = 0, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """One block with all rows: the transpose of a few rows would read the whole source for each."""
        yield 0, self.numpy()
