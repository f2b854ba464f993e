"""Hold keys and values in 4 bits, two in a byte: what `kv = uint4` on a deploy line adds to its pipeline.

    new K and V, channel d of head g  ->  clip(round(x / s[g,d]) + z[g,d], 0, 15)

One static scale for each layer, kind, K/V head and channel, of the least squared error on the calibration text among
ranges that are narrower than what was seen: a few channels of keys are far larger than the others of their head, and
far from 0 (Liu et al. 2024, KIVI, arXiv 2402.02750; Hooper et al. 2024, KVQuant, arXiv 2401.18079). Keys are stored
after rotary embedding. The driver appends this pass; a plan does not name it.
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
    from ...compiler.ir.packed_cache import ChannelScales

_SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
_WINDOWS = 8  # of the calibration text: ranges of channels settle soon


@dataclass(frozen=True)
class KvUint4(Pass):
    """Round keys and values to 4 bits with a scale for each channel."""

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
        from ...compiler.ir.packed_cache import ChannelScales, round_added, rounded_outputs

        graph = module.main.graph
        if KV_TYPE.get(graph) == self.type:
            return 0
        added = list(rounded_outputs(graph))
        shape = (1, 1) if module.arch is None else (module.arch.kv_heads, module.arch.head_dim)
        seen = {} if scope.dry else _seen(module, scope)
        for value in added:
            scales = ChannelScales(np.ones(shape, np.float32), np.zeros(shape, np.float32))
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


def _best(values: np.ndarray) -> ChannelScales:
    """The scale and zero point [G,D] of each channel with the least squared error, of `values` [windows,G,S,D]."""
    import numpy as np

    from ...compiler.ir.packed_cache import LEVELS, ChannelScales

    x = np.moveaxis(values, 1, 0)  # [G,windows,S,D]
    over = (1, 2)
    low, high = x.min(axis=over).astype(np.float64), x.max(axis=over).astype(np.float64)
    middle, width = (low + high) / 2, high - low
    best = np.full(low.shape, np.inf)
    scale, zero = np.ones(low.shape, np.float32), np.zeros(low.shape, np.float32)
    for shrink in _SHRINKS:
        least = 1e-6 * np.abs(middle) + 1e-8  # float32 holds zero points of a million
        step = np.maximum(shrink * width / LEVELS, least).astype(np.float32)
        at = np.rint(LEVELS / 2 - middle / step)
        near, by = at[:, None, None], step[:, None, None]
        back = (np.clip(np.rint(x / by) + near, 0, LEVELS) - near) * by
        error = ((back - x) ** 2).sum(axis=over, dtype=np.float64)
        better = error < best
        best, scale, zero = np.where(better, error, best), np.where(better, step, scale), np.where(better, at, zero)
    return ChannelScales(scale.astype(np.float32), zero.astype(np.float32))
