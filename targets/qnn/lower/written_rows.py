"""What HTP writes wrong: some results of 16 bits that leave a graph, unless their rows leave in pieces.

Emulated on v73, v75, v79 and v81: what a linear in LPBQ, or Mul, or Add behind one of them, makes of 96 and 128 rows
and 2,304 to 4,608 columns is garbage as a graph's own output, or the engine dies. Up to 64 rows, up to 2,048 columns
and from 6,144 on it is right, and so it is in every shape where its rows are sliced and joined again.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from .builder import Builder, static_shape
from .integer_activations import Integers

ROWS = 64  # of a piece: so many are right in every width that was run
WIDTHS = range(2049, 6144)


def in_rows(build: Builder, value: ir.Value, integers: Integers | None) -> ir.Value:
    """`value`, an output of a graph, or the same in pieces of `ROWS` rows where HTP would write it wrong."""
    if integers is None or not _floats(value):
        return value
    made = _before_reshapes(value)
    shape, encoding = static_shape(made), integers.of(made)
    rows = math.prod(shape[:-1])
    eight = encoding is not None and encoding.dtype == "uint8"
    if eight or len(shape) < 2 or shape[-1] not in WIDTHS or rows <= ROWS:
        return value
    flat = build.reshape(made, (1, rows, shape[-1]), "rows")
    pieces = []
    for start in range(0, rows, ROWS):
        stop = min(start + ROWS, rows)
        bounds = (build.ints(number) for number in (start, stop, 1))
        pieces.append(build.op("Slice", flat, *bounds, shape=(1, stop - start, shape[-1]), step="piece"))
    joined = build.op("Concat", *pieces, shape=(1, rows, shape[-1]), step="joined", axis=1)
    return build.reshape(joined, static_shape(value), "written")


def _before_reshapes(value: ir.Value) -> ir.Value:
    """What `value` is in another shape, or itself."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Reshape" else None
    return value if source is None else _before_reshapes(source)


def _floats(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
