"""How far a row may be off and count as right.

right   max|y - y0| <= 0.01 * max|y0|  and  cosine(y, y0) >= 0.9995, y0 the float32 oracle
        0.02 on integers: HTP's 16-bit softmax loses a quarter of a step at each position
"""

from __future__ import annotations

import math

from ....compiler.emit.conformance.measure import Bounds
from ....compiler.emit.conformance.table import Row

FLOATS, INTEGERS = Bounds(0.01, 0.9995), Bounds(0.02, 0.9995)


def within(row: Row) -> bool:
    """Whether the figures of a row are those of a right one."""
    bounds = INTEGERS if row.lowering.startswith(("u8.", "u16.")) else FLOATS
    error, cosine = (row.figures.get(name, math.nan) for name in ("error", "cosine"))
    return 0 <= error <= bounds.error and bounds.cosine <= cosine <= 1 + 1e-6
