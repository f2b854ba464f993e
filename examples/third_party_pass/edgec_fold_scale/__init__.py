"""Fold a constant scale of a linear's outputs into its weight.

    y[.., N] = Mul(MatMul(x[.., K], W[K, N]), s)   ->   y = MatMul(x, W * s)

`s` is a scalar or one value per output N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgec.api import Level, Pass, Scope, Tolerance, param

if TYPE_CHECKING:
    from edgec.api import Module


@dataclass(frozen=True)
class FoldOutputScale(Pass):
    """Fold a constant Mul behind a linear into the linear's weight."""

    name: ClassVar[str] = "fold_output_scale"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC,)

    largest: float = param(
        1e4, doc="scales above this are left alone: they would drown a block's small weights", minimum=1
    )

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(1e-5, "one rounding moves from the activation to the weight")

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many Mul nodes were folded."""
        from .fold import fold  # onnx-ir and numpy only now: checking a plan has to stay fast

        return sum(fold(module, mul, self.largest, scope) for mul in module.nodes("Mul"))
