"""Join linears that read one value into one linear, whose result is cut again: q, k and v; gate and up.

    y_i = x W_i^T (+ b_i),  i = 1..n    ->    y = x [W_1; ..; W_n]^T (+ [b_1; ..; b_n]),   y_i = y[.., columns of i]

x [.., K], W_i [N_i, K]. Each row of the weight keeps its numbers, floats or integers with their scales, so that results
are the same. An NPU reads its input once and runs one op in the place of three. The Slices have the names of the ops
whose values they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.ir.levels import Level
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import Pass, Scope, Tolerance

if TYPE_CHECKING:
    from ..compiler.ir.module import Module


@dataclass(frozen=True)
class Fuse(Pass):
    """Join linears that read the same value, q, k and v or gate and up, into one each."""

    name: ClassVar[str] = "fuse"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC, Level.COMPRESSED)

    @property
    def tolerance(self) -> Tolerance:
        """Engines sum in another order where a product is wider."""
        return Tolerance(1e-5, "sums in another order")

    def demands(self) -> Demands:
        """Nothing that a target could lack."""
        return Demands()

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many linears were joined into others."""
        from .joining.rewrite import fuse

        return fuse(module, scope)
