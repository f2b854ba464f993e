"""Put RotaryEmbedding in the place of the primitive ops that exporters write for it.

    x * cos + concat(-x[D/2:], x[:D/2]) * sin    ->    RotaryEmbedding(x, cos[:D/2], sin[:D/2])

Seven passes over the heads become one, and cos and sin are held once, not twice.
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
class RaiseRotary(Pass):
    """Make one op of each rotary embedding that is written in primitive ops."""

    name: ClassVar[str] = "raise_rotary"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC,)

    @property
    def tolerance(self) -> Tolerance:
        """One op rounds once where several round each."""
        return ONE_ROUNDING

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many were put in; a value that is turned by halves otherwise is told with the reason."""
        from .raising.put_instead import raise_all
        from .raising.rotary import raised

        return raise_all(module, scope, ("Add",), raised)
