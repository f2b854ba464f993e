"""Put Attention in the place of the primitive ops that exporters write for it.

    q -> Mul(scale) -> MatMul(Transpose(k)) -> Add(mask) -> Softmax -> MatMul(v)    ->    Attention(q, k, v, mask)

The scores, of heads x queries x keys, are then no values of the graph: an engine may keep them in its kernel, and
integer activations get ranges that fit scores and probabilities.
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
class RaiseAttention(Pass):
    """Make one op of each attention that is written in primitive ops."""

    name: ClassVar[str] = "raise_attention"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC,)

    @property
    def tolerance(self) -> Tolerance:
        """The factor goes to queries and keys before they are multiplied, or behind: one rounding or another."""
        return ONE_ROUNDING

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many were put in; a softmax of a product that is left alone is told with its reason."""
        from .raising.attention import raised
        from .raising.put_instead import raise_all

        return raise_all(module, scope, ("Softmax",), raised)
