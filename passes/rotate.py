"""Turn the residual stream and the heads' values by orthogonal matrices, folded into weights: outputs do not change.

    R1 [H, H]   x' = x R1:   embedding E R1,  o_proj and down_proj R1^T W,  q, k, v, gate, up and head (W g) R1,  g = 1
    R2 [D, D]   v' = v R2:   v_proj R2^T W per K/V head,  o_proj W R2 per head

QuaRot (Ashkboos et al. 2024, arXiv 2404.00456, section 4, stage 1) and SpinQuant (Liu et al. 2024, arXiv 2405.16406,
section 3.1) without the rotations that run online. RMSNorm commutes with R1 once its gain g is in the linears behind
it: |x R1| = |x|. Activations lose their outliers, so that few bits hold them. R is a Hadamard matrix with random signs
(sizes m 2^k with m = 1, 12 or 20), else a random orthogonal one. A tied head is untied: embedding and head turn
differently. With R2 the V caches hold turned values; K stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.ir.levels import Level
from ..compiler.pipeline.pass_interface import Pass, Relative, Scope, Tolerance
from ..compiler.plan.parameters import param

if TYPE_CHECKING:
    from ..compiler.ir.module import Module


@dataclass(frozen=True)
class Rotate(Pass):
    """Turn hidden states and head values by orthogonal matrices, so that few bits hold them; outputs unchanged."""

    name: ClassVar[str] = "rotate"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC,)
    selects: ClassVar[bool] = False
    keeps_shapes: ClassVar[bool] = True

    residual: bool = param(True, doc="R1: turn the residual stream")
    values: bool = param(True, doc="R2: turn the values of each head (and what the V cache holds)")
    seed: int = param(0, doc="of the random signs", minimum=0)

    @property
    def tolerance(self) -> Tolerance:
        """Turned weights are rounded to float32 once more."""
        return Relative(1e-4, "weights turned in float64, stored in float32")

    @property
    def moves_cache(self) -> bool:
        """R2 turns what the V cache holds."""
        return self.values

    @property
    def moves_inside(self) -> bool:
        """R1 turns what parts hand to each other, R2 the V cache."""
        return self.residual or self.values

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many weights were turned; a second run finds the marks of the first and does nothing."""
        from .rotation.rewrite import rotate

        return rotate(module, self.residual, self.values, self.seed, scope)
