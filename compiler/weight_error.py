"""How far quantised weights are from the float weights they were made of, for the report.

    error = sqrt(sum (w - dequant(q))^2 / sum w^2)            over at most ROWS rows of each linear, evenly spread

Each linear's float weight (a description, no numbers) is noted before every step, so what a pass did to a weight before
it was quantised (a rotation, a fold) is no error. `awq` moves scale between layers within its own step: there is no
float weight to compare with, and its linears have no figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .linears import Linear, linears

if TYPE_CHECKING:
    from .module import Module
    from .plan import Step
    from .weights import Weight

ROWS, STRETCH = 256, 32  # bounds what is read: 256 rows of 250 linears of a 4B model take a few seconds
_FOLDING = {"awq"}


class WeightErrors:
    """Call `before` ahead of each step of one model, then `measure` once."""

    def __init__(self) -> None:
        self._float: dict[str, Weight] = {}
        self._folding: set[str] = set()

    def before(self, module: Module, step: Step) -> None:
        """Note the weights that are still float; forget those whose scale this step may move."""
        self._float.update({linear.name: linear.weight() for linear in linears(module) if linear.quant is None})
        if getattr(step.pass_, "method", None) in _FOLDING:
            self._folding.add(str(step.span))

    def measure(self, module: Module) -> dict[str, float]:
        """The error of each quantised linear, in the module's order."""
        found = {}
        for linear in linears(module):
            before = self._float.get(linear.name)
            if linear.quant is None or before is None or module.decisions.get(linear.name) in self._folding:
                continue
            if before.dims == linear.weight().dims:
                found[linear.name] = relative_error(before, linear)
        return found


def relative_error(before: Weight, linear: Linear) -> float:
    """Root of the squared difference over the squared weights, on the rows that are looked at."""
    after, off, total = linear.weight(), 0.0, 0.0
    for start, stop in _stretches(before.dims[0], ROWS if linear.rows_are_outputs else STRETCH):
        was = before.rows(start, stop).astype(np.float64)
        off += float(np.square(was - after.rows(start, stop)).sum())
        total += float(np.square(was).sum())
    return math.sqrt(off / total) if total else 0.0


def _stretches(rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Whole tensors of up to `most` rows, else stretches spread over the tensor (a turned weight: one)."""
    if rows <= most:
        yield 0, rows
        return
    count = most // STRETCH
    for index in range(count):
        start = (rows - STRETCH) * index // max(count - 1, 1)
        yield start, start + STRETCH
