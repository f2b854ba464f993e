"""Weights that float16 has no digits for: HTP reads zeros, or a few steps, in their place.

    max |w| < 100 * 2^-24      float16's smallest step is 2^-24: more than 1 % of every weight is lost

One number alone, as an epsilon is, says nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...compiler.ir.weights import as_weight
from ...compiler.proof.not_taken import Wrong

_LEAST = 100 * 2.0**-24


def vanishing(model: ir.Model) -> list[Wrong]:
    """The nodes of `model` that read such a weight; its rows are read once, and no further than the first large one."""
    found: dict[str, Wrong] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < 2:
            continue
        size = 0.0
        for _, block in as_weight(tensor).blocks():
            size = max(size, float(np.abs(block).max(initial=0.0)))
            if size >= _LEAST:
                break
        if 0.0 < size < _LEAST:
            why = f"reads `{value.name}`, whose numbers are {size:.2g} at most: float16 has no digits for them"
            for use in value.uses():
                found.setdefault(use.node.name or "", Wrong(use.node.name or "", use.node.op_type, why))
    return list(found.values())
