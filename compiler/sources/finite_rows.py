"""Weights of a checkpoint that have to be numbers: looked at whenever rows are read, whoever reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import fail

if TYPE_CHECKING:
    import numpy as np

    from ..ir.weights import Weight


def finite(weight: Weight, stored: str, path: Path) -> Weight:
    """`weight`, float32, with a check: rows with NaN or infinity are an error naming the tensor `stored` in `path`."""
    import numpy as np

    from ..ir.weights import Weight

    def rows(start: int, stop: int) -> np.ndarray:
        block = weight.rows(start, stop)
        with np.errstate(invalid="ignore", over="ignore"):
            whole = block.sum()  # one pass that keeps nothing
        if not np.isfinite(whole):
            _refuse_rows(stored, path, block, start)
        return block

    return Weight(weight.name, weight.dtype, weight.dims, rows, weight.origin)


def _refuse_rows(stored: str, path: Path, block: np.ndarray, start: int) -> None:
    import numpy as np

    wrong = ~np.isfinite(block.reshape(len(block), -1)).all(axis=1)
    if wrong.any():  # else the sum alone is beyond float32
        row = start + int(wrong.argmax())
        message = f"tensor `{stored}` in `{path}` holds NaN or infinity in row {row}"
        fail("E0347", message, help="the checkpoint is damaged: copy or save it again")
