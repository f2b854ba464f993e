"""Where integers with a pattern of zeros lie in an engine's file: what a packed weight file is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..ir.packing import BitOrder
from ..ir.sparse_pattern import Sparsity

if TYPE_CHECKING:
    from ..ir.linears import QuantizedWeight

_WIDEST = 8  # bits of an integer

Codes = Callable[[int, int], np.ndarray]  # the codes for zero of rows [start, stop), uint8 [rows, runs of a row]


@dataclass(frozen=True)
class SparseIntegers:
    """A tensor of integers in one piece of a file, rows one behind the other without gaps.

    file    relative to the bundle
    name    the linear it is of
    offset  bytes before the first integer
    zero    the code that stands for zero, where all integers have the same
    zeros   else the codes of rows, one for each `run` consecutive integers
    """

    file: str
    name: str
    offset: int
    rows: int
    columns: int
    bits: int
    order: BitOrder
    sparsity: Sparsity
    zero: int = 0
    zeros: Codes | None = None
    run: int = 0


def pattern_of(quant: QuantizedWeight | None) -> Sparsity | None:
    """The pattern along the inputs that integers have; None: dense, or in a form that is not packed."""
    if quant is None or quant.minimum is not None or quant.bits > _WIDEST or len(quant.q.dims) != 2:
        return None
    from ..ir.sparsity import SPARSITY  # onnx-ir takes half a second, which whoever opens a bundle need not wait

    found = SPARSITY.get(quant.q)
    return found if found is not None and found.axis == 1 and quant.axis in (0, 1) else None


def sparse_integers(
    quant: QuantizedWeight, *, file: str, name: str, offset: int, bits: int, order: BitOrder, shift: int
) -> SparseIntegers | None:
    """The integers of `quant` [N, K], stored from `offset` of `file` on as q + `shift`; None: they have no pattern."""
    sparsity = pattern_of(quant)
    if sparsity is None:
        return None
    rows, columns = quant.q.dims
    place = (file, name, offset, rows, columns, bits, order, sparsity)
    given = quant.zero_point
    if given is None:
        return SparseIntegers(*place, zero=shift)

    def zeros(start: int, stop: int) -> np.ndarray:
        codes = given.rows(start, stop).astype(np.int16).reshape(stop - start, -1) + shift
        return (codes & ((1 << bits) - 1)).astype(np.uint8)

    return SparseIntegers(*place, zeros=zeros, run=quant.block or columns)
