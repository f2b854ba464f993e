"""Put RMSNormalization and LayerNormalization in the place of the primitive ops that exporters write for them.

    x -> Pow -> ReduceMean -> Add -> Sqrt -> Div -> Mul(x) -> Mul(gain)    ->    RMSNormalization(x, gain)

Engines have one kernel for a norm, with sums in float32; seven ops are as many passes over memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.ir.levels import Level
from ..compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from .raising.one_rounding import ONE_ROUNDING

if TYPE_CHECKING:
    from ..compiler.ir.module import Module


@dataclass(frozen=True)
class RaiseNorms(Pass):
    """Make one op of each norm that is written in primitive ops."""

    name: ClassVar[str] = "raise_norms"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC,)

    @property
    def tolerance(self) -> Tolerance:
        """One op rounds once where several round each."""
        return ONE_ROUNDING

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many norms were put in; a mean of squares that is left alone is told with its reason."""
        from .raising.norms import raised
        from .raising.put_instead import raise_all

        return raise_all(module, scope, ("ReduceMean",), raised)
