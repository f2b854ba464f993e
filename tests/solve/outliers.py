"""The same model with outliers: a few channels of each norm scaled up by `factor`, what reads them scaled down.

    x' = x * f  (gain g * f),   W' = W / f     f = `factor` on `count` channels of each norm, 1 elsewhere

The logits are those of the float32 model; activations of few bits lose what is small beside the outliers.
"""

from __future__ import annotations

import numpy as np
from edgec.compiler.fold import exchange, own_gain, scale_columns, scale_rows
from edgec.compiler.linears import linears
from edgec.compiler.module import Module, constant


def with_outliers(module: Module, count: int = 4, factor: float = 32.0, seed: int = 0) -> Module:
    """A copy of `module` with outlier channels behind every norm of the residual stream but the last."""
    copy = module.clone()
    rng = np.random.default_rng(seed)
    found = {linear.name: linear for linear in linears(copy)}
    for norm in list(copy.nodes("RMSNormalization")):
        readers = [found.get(use.node.name or "") for use in norm.outputs[0].uses()]
        taken = [reader for reader in readers if reader is not None and reader.name != "lm_head"]
        if not taken or len(taken) != len(readers):
            continue
        gain = own_gain(copy, norm)
        held = constant(gain)
        assert held is not None
        factors = np.ones(held.dims, np.float32)
        factors[rng.choice(held.dims[0], count, replace=False)] = factor
        exchange(gain, scale_rows(held, factors, "outliers"))
        for reader in taken:
            assert reader.stored is not None
            exchange(reader.value, scale_columns(reader.stored, 1 / factors, "outliers"))
    return copy
