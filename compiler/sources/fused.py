"""Linears that a checkpoint stores as one: the rows of several, one behind the other.

layers.0.self_attn.qkv_proj.weight [(Q + 2 G) D, H]    is    rows of q_proj, k_proj, v_proj
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ir.weights import Weight

Shapes = dict[str, tuple[int, ...]]
Fused = Mapping[str, tuple[str, ...]]  # stored linear of a layer -> those whose rows it holds


@dataclass(frozen=True)
class RowsOf:
    """Rows [start, stop) of the stored tensor `name`."""

    name: str
    start: int
    stop: int


def split(shapes: Mapping[str, tuple[int, ...]], fused: Fused) -> tuple[Shapes, dict[str, RowsOf]]:
    """The tensors that are stored, with their shapes; and where each of `shapes` lies that is a part of one.

    Names are those of an architecture's tensors: `layers.0.mlp.up_proj.weight`.
    """
    stored: Shapes = {}
    parts: dict[str, RowsOf] = {}
    whole = {part: (name, part == names[0]) for name, names in fused.items() for part in names}
    for name, shape in shapes.items():
        linear, _, leaf = name.rpartition(".")
        layer, part = linear.split(".")[:2], ".".join(linear.split(".")[2:])
        if part not in whole:
            stored[name] = shape
            continue
        together, first = whole[part]
        key = ".".join([*layer, together, leaf])
        start = 0 if first else stored[key][0]
        stored[key] = (start + shape[0], *shape[1:])
        parts[name] = RowsOf(key, start, start + shape[0])
    return stored, parts


def rows_of(name: str, weight: Weight, rows: RowsOf) -> Weight:
    """The part of a stored weight as a weight of its own, with its part of the integers it is stored in."""
    from ..ir.stored_integers import STORED, sliced
    from ..ir.weights import slice_rows

    made = slice_rows(name, weight, rows.start, rows.stop)
    integers = STORED.get(weight)
    if integers is not None:
        STORED.set(made, sliced(integers, rows.start, rows.stop))
    return made
