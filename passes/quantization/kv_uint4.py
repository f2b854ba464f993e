"""Hold keys and values in 4 bits, two in a byte: what `kv = uint4` on a deploy line adds to its pipeline.

    new K and V of head g  ->  clip(round(x / s[g]) + z[g], 0, 15)

One static scale for each layer, kind and K/V head, of the least squared error on the calibration text among ranges that
are narrower than what was seen. Keys are stored after rotary embedding. The driver appends this pass; a plan does not
name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...compiler.ir.levels import Level
from ...compiler.pipeline.demands import Demands
from ...compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from ...compiler.plan.parameters import param

if TYPE_CHECKING:
    import numpy as np

    from ...compiler.ir.module import Module
    from ...compiler.ir.packed_cache import HeadScales

_SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
_WINDOWS = 8  # of the calibration text: ranges of heads settle soon


@dataclass(frozen=True)
class KvUint4(Pass):
    """Round keys and values to 4 bits with a scale for each head."""

    name: ClassVar[str] = "kv_cache"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC, Level.COMPRESSED)
    selects: ClassVar[bool] = False

    type: str = param("uint4", doc="type of keys and values", choices=("uint4",))

    @property
    def tolerance(self) -> Tolerance:
        """Half a step of 15 in each key and value, and random inputs go beyond the calibrated ranges."""
        return Tolerance(1.5, "uint4 cache")

    @property
    def moves_cache(self) -> bool:
        """It rounds what the cache holds."""
        return True

    def demands(self) -> Demands:
        """The cache's type, and ranges measured for it."""
        return Demands(cache=self.type, calibration="kv = uint4", decoder="kv = uint4")

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many tensors of keys and values are rounded."""
        import numpy as np

        from ...compiler.ir.annotations import KV_TYPE
        from ...compiler.ir.packed_cache import HeadScales, round_added, rounded_outputs

        graph = module.main.graph
        if KV_TYPE.get(graph) == self.type:
            return 0
        added = list(rounded_outputs(graph))
        heads = 1 if module.arch is None else module.arch.kv_heads
        seen = {} if scope.dry else _seen(module, scope)
        for value in added:
            scales = HeadScales(np.ones(heads, np.float32), np.zeros(heads, np.float32))
            if seen:
                scales = _best(seen[value.name or ""])
            round_added(graph, value, scales)
        KV_TYPE.set(graph, self.type)
        return len(added)


def _seen(module: Module, scope: Scope) -> dict[str, np.ndarray]:
    """Keys and values of the calibration text: tensor -> [windows, G, S, D]."""
    from ...compiler.calibration.windows import windows
    from ...compiler.oracle.oracle import DecoderOracle

    if scope.calibration is None:
        raise ValueError("`kv = uint4` was run without a calibration text")
    scope.progress("ranges of keys and values")
    return DecoderOracle(module).batch_cache(windows(scope.calibration, module)[:_WINDOWS])


def _best(values: np.ndarray) -> HeadScales:
    """The scale and zero point of each head with the least squared error; a range holds 0."""
    import numpy as np

    from ...compiler.ir.packed_cache import LEVELS, HeadScales

    x = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).astype(np.float64)
    low, high = np.minimum(x.min(axis=1), 0.0), np.maximum(x.max(axis=1), 0.0)
    best = np.full(len(x), np.inf)
    scale, zero = np.ones(len(x), np.float32), np.zeros(len(x), np.float32)
    for shrink in _SHRINKS:
        step = np.maximum(shrink * (high - low) / LEVELS, 1e-8).astype(np.float32)
        at = np.clip(np.rint(-shrink * low / step), 0, LEVELS)
        q = np.clip(np.rint(x / step[:, None]) + at[:, None], 0, LEVELS)
        error = (((q - at[:, None]) * step[:, None] - x) ** 2).sum(axis=1)
        better = error < best
        best, scale, zero = np.where(better, error, best), np.where(better, step, scale), np.where(better, at, zero)
    return HeadScales(scale.astype(np.float32), zero.astype(np.float32))
