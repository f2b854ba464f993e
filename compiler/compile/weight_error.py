"""How far quantised weights are from the float weights they were made of, for the report.

    error = sqrt(sum (w - dequant(q))^2 / sum w^2)            over at most ROWS rows of each linear, evenly spread

The integers know the float weight they were made from (`annotations.FLOAT_WEIGHT`): what a pass did to it before (a
rotation, a fold, AWQ's scales) is no error. A weight that was quantised when it was loaded has no figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..ir.annotations import FLOAT_WEIGHT
from ..ir.linears import Linear, linears
from ..ir.weights import as_weight

if TYPE_CHECKING:
    from ..ir.module import Module
    from ..ir.weights import Weight

ROWS, STRETCH = 256, 32  # bounds what is read: 256 rows of 250 linears of a 4B model take a few seconds


def weight_errors(module: Module) -> dict[str, float]:
    """The error of each quantised linear, in the module's order."""
    found = {}
    for linear in linears(module):
        source = None if linear.quant is None else FLOAT_WEIGHT.get(linear.quant.q)
        before = None if source is None else as_weight(source)
        if before is not None and before.dims == linear.weight().dims:
            found[linear.name] = relative_error(before, linear)
    return found


def relative_error(before: Weight, linear: Linear) -> float:
    """Root of the squared difference over the squared weights, on sampled rows of `before`, the float weight."""
    after, off, total = linear.weight(), 0.0, 0.0
    for start, stop in sampled_rows(before.dims[0], ROWS if linear.rows_are_outputs else STRETCH):
        was = before.rows(start, stop).astype(np.float64)
        off += float(np.square(was - after.rows(start, stop)).sum())
        total += float(np.square(was).sum())
    return math.sqrt(off / total) if total else 0.0


def sampled_rows(rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Row ranges to sample: all rows if there are at most `most`, else evenly spaced ranges of 32.

    A weight stored [K, N] has `most` = 32 and gets one range.
    """
    if rows <= most:
        yield 0, rows
        return
    count = most // STRETCH
    for index in range(count):
        start = (rows - STRETCH) * index // max(count - 1, 1)
        yield start, start + STRETCH
