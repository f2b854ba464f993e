"""Hold keys and values in 8 bits: what `kv = uint8` on a deploy line adds to its pipeline.

    past, new K and V  ->  clip(round(x / s) + z, 0, 255)

One static scale per layer and kind, of the least squared error. Keys are stored after rotary embedding. The module's
own K/V lead through the same integers, so its perplexity has the cost in it. The driver appends this pass; a plan
does not name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...compiler.diagnostics.diagnostic import fail
from ...compiler.ir.levels import Level
from ...compiler.pipeline.demands import Demands
from ...compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from ...compiler.plan.parameters import param

if TYPE_CHECKING:
    from ...compiler.ir.module import Module


@dataclass(frozen=True)
class KvCache(Pass):
    """Give the K/V cache an integer type of its own."""

    name: ClassVar[str] = "kv_cache"
    takes: ClassVar[tuple[Level, ...]] = (Level.COMPRESSED,)
    selects: ClassVar[bool] = False

    type: str = param("uint8", doc="type of keys and values", choices=("uint8",))

    @property
    def tolerance(self) -> Tolerance:
        """Half a step of 255 in each key and value, and random inputs go beyond the calibrated ranges."""
        return Tolerance(0.3, f"{self.type} cache")

    @property
    def moves_cache(self) -> bool:
        """It rounds what the cache holds."""
        return True

    def demands(self) -> Demands:
        """The cache's type, and ranges measured for it."""
        setting = f"kv = {self.type}"
        return Demands(cache=self.type, calibration=setting, torch=setting, decoder=setting)

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many ranges changed."""
        from ...compiler.ir.annotations import KV_TYPE
        from . import activation_pairs as activations

        if not activations.wanted(module):
            fail(
                "E0419",
                f"`{module.name}` has no integer activations, without which its K/V cache cannot be {self.type}",
                scope.origin,
                help="add `activations = uint16` to a `quantize` line",
            )
        before = activations.take_out(module)
        KV_TYPE.set(module.main.graph, self.type)
        return activations.apply(module, before, scope)
