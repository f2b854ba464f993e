"""Put Gelu and Swish in the place of the primitive ops that exporters write for them.

x -> Div(sqrt 2) -> Erf -> Add(1) -> Mul(x) -> Mul(0.5)    ->    Gelu(x)
x -> Sigmoid -> Mul(x)                                     ->    Swish(x), the gate of a SwiGLU
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
class RaiseActivations(Pass):
    """Make one op of each GELU and SiLU that is written in primitive ops."""

    name: ClassVar[str] = "raise_activations"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC,)

    @property
    def tolerance(self) -> Tolerance:
        """One op rounds once where several round each."""
        return ONE_ROUNDING

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many activations were put in; a product with an Erf, Tanh or Sigmoid that is none is told."""
        from .raising.activations import ANCHORS, raised
        from .raising.put_instead import raise_all

        return raise_all(module, scope, ANCHORS, raised)
