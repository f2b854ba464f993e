"""Shapes of linears that the lookup kernels are specialised for: `shapes.h`, which `lookup.h` includes.

    X(inputs, bits, block) of each  ->  a product with these as constants, its loops over a block unrolled

Every other shape runs the products that take them at run time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

HEADER = "shapes.h"
LEAST_INPUTS = 512  # below, a product takes a microsecond or two, less than calling it does
MOST = 8  # a compiler needs about two seconds for each
_BLOCKS = (32, 64, 128)


class Shape(NamedTuple):
    """Of a linear with tables of int8."""

    inputs: int
    bits: int
    block: int


def worth_specialising(linears: Iterable[tuple[Shape, int]]) -> tuple[Shape, ...]:
    """The shapes of a model's linears, each with its outputs, that take most of its weights; sorted."""
    weights: dict[Shape, int] = {}
    for shape, outputs in linears:
        if shape.inputs >= LEAST_INPUTS:
            weights[shape] = weights.get(shape, 0) + shape.inputs * outputs
    return tuple(sorted(sorted(weights, key=lambda shape: -weights[shape])[:MOST]))


def read_shapes(found: object) -> tuple[Shape, ...]:
    """Shapes as a manifest has them, [inputs, bits, block] each; what is none, or too much, is left out."""
    made = [shape for one in found if (shape := _read(one))] if isinstance(found, list) else []
    return tuple(sorted(set(made[:MOST])))


def _read(found: object) -> Shape | None:
    if not isinstance(found, list) or len(found) != 3 or not all(type(number) is int for number in found):
        return None
    inputs, bits, block = found
    fits = 0 < inputs < 1 << 31 and 1 <= bits <= 4 and block in _BLOCKS and inputs % block == 0
    return Shape(inputs, bits, block) if fits else None


def header(shapes: Iterable[Shape]) -> str:
    """The text of `shapes.h`."""
    rows = [f"  X(of, {', '.join(map(str, shape))})" for shape in shapes]
    says = "// Written by edgec: inputs, bits and block of the linears that products are specialised for."
    return says + "\n" + " \\\n".join(["#define LOOKUP_SHAPES(X, of)", *rows]) + "\n"
