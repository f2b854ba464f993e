"""Rows of several weights as one weight, read from them as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from ...compiler.ir.annotations import FLOAT_WEIGHT, FORMAT, JOINED, Transform
from ...compiler.ir.linears import Linear, QuantizedWeight
from ...compiler.ir.weights import Weight, as_weight, derive


def joined(name: str, weights: Sequence[Weight]) -> Weight:
    """The rows of `weights`, one behind the other."""
    first = weights[0]
    starts = [0, *accumulate(weight.dims[0] for weight in weights)]

    def rows(start: int, stop: int) -> np.ndarray:
        made = []
        for weight, (begin, end) in zip(weights, pairwise(starts), strict=True):
            if begin < stop and start < end:
                made.append(weight.rows(max(start, begin) - begin, min(stop, end) - begin))
        return np.concatenate(made) if made else first.rows(0, 0)

    return derive(name, first.dtype, (starts[-1], *first.dims[1:]), rows, first, Transform.JOIN, "joined")


def joined_tensors(name: str, group: Sequence[Linear]) -> list[Weight]:
    """The float weight of all linears of `group`, or their integers, scales and zero points or minimums."""
    quants = [one.quant for one in group if one.quant is not None]
    if not quants:
        whole = joined(f"{name}.weight", [one.stored for one in group if one.stored is not None])
        _tell(whole, group)
        return [whole]
    q = joined(f"{name}.weight.q", [quant.q for quant in quants])
    FORMAT.set(q, quants[0].format)
    sources = [FLOAT_WEIGHT.get(quant.q) for quant in quants]
    floats = [as_weight(source) for source in sources if source is not None]
    if len(floats) == len(quants):
        FLOAT_WEIGHT.set(q, joined(f"{name}.weight", floats))
    _tell(q, group)
    found = [q]
    for part in ("scale", "zero_point", "minimum"):
        held = [tensor for quant in quants if (tensor := _part(quant, part)) is not None]
        if held:
            found.append(joined(f"{name}.weight.{part}", held))
    return found


def _part(quant: QuantizedWeight, name: str) -> Weight | None:
    return {"scale": quant.scale, "zero_point": quant.zero_point, "minimum": quant.minimum}[name]


def _tell(weight: Weight, group: Sequence[Linear]) -> None:
    JOINED.set(weight, tuple((one.name, one.shape[0]) for one in group))
