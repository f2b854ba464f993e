"""Rotate the residual stream and the heads' values by orthogonal matrices, folded into weights: outputs do not change.

    R1 [H, H]   x' = x R1:   embedding E R1,  o_proj and down_proj R1^T W,  q, k, v, gate, up and head (W g) R1,  g = 1
    R2 [D, D]   v' = v R2:   v_proj R2^T W per K/V head,  o_proj W R2 per head

QuaRot (Ashkboos et al. 2024, arXiv 2404.00456, section 4, stage 1) and SpinQuant (Liu et al. 2024, arXiv 2405.16406,
section 3.1) without the rotations that run online. RMSNorm commutes with R1 once its gain g is folded into the linears
that read it: |x R1| = |x|. Activations lose their outliers, so that fewer bits represent them. R is a Hadamard matrix
with random signs (sizes m 2^k with m = 1, 12 or 20), else Hartley's, doubled: no number above sqrt(2 / size). Where a
norm stands behind attention or MLP (Gemma 3), R1 cannot pass its gain: only R2 is possible. A tied head is untied,
since embedding and head are rotated differently. `channels = outliers` turns R1 into reflections that spread the few
channels that need it (`rotation/outlier_channels.py`). With R2 the V caches contain rotated values; K does not change.
`learned` trains factors for channels behind them (`rotation/learned_scales.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.diagnostics.diagnostic import PlanError, fail
from ..compiler.ir.levels import Level
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from ..compiler.plan.parameters import param

if TYPE_CHECKING:
    import numpy as np

    from ..compiler.ir.module import Module


@dataclass(frozen=True)
class Rotate(Pass):
    """Rotate hidden states and attention values by orthogonal matrices folded into the weights.

    Outputs do not change, and activations lose their outliers, so that fewer bits represent them.
    """

    name: ClassVar[str] = "rotate"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC,)
    selects: ClassVar[bool] = False
    keeps_shapes: ClassVar[bool] = True

    residual: bool = param(True, doc="rotate the residual stream (R1 of SpinQuant)")
    channels: str = param(
        "all",
        doc="which hidden channels R1 turns; outliers: only those whose values stand far out on the calibration text, "
        "which leaves the weights of all others nearly as they are; norms keep their gains, and outliers inside MLPs "
        "are evened out",
        choices=("all", "outliers"),
        meant={"outlier": "channels = outliers", "massive": "channels = outliers"},
    )
    values: bool = param(True, doc="rotate the values of each head, and with them the V cache (R2 of SpinQuant)")
    learned: bool = param(
        False,
        doc="train a factor for each channel of what linears read, block by block together with ranges of 8 bits, and "
        "fold it into the weights on both sides: what the rotations leave of outliers, and those inside the MLP",
    )
    seed: int = param(0, doc="seed of the random signs of the rotation matrices", minimum=0)

    @property
    def tolerance(self) -> Tolerance:
        """Rotated weights are rounded to float32 once more."""
        return Tolerance(1e-4, "weights rotated in float64, stored in float32")

    @property
    def moves_cache(self) -> bool:
        """R2 rotates what the V cache holds; a learned factor scales it."""
        return self.values or self.learned

    @property
    def moves_inside(self) -> bool:
        """R1 rotates what parts pass to each other, R2 the V cache."""
        return self.residual or self.values or self.learned

    def demands(self) -> Demands:
        """Which ops write and read the hidden states is known of decoders alone."""
        word = "learned" if self.learned else "channels"
        if not self.learned and not self._looks:
            return Demands(decoder="rotate")
        setting = "rotate (learned = true)" if self.learned else "rotate (channels = outliers)"
        return Demands(decoder="rotate", calibration=setting, without_calibration=f"leave out `{word}`", torch=setting)

    @property
    def _looks(self) -> bool:
        """Whether hidden states are looked at first."""
        return self.residual and self.channels == "outliers"

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many weights were rotated; a second run finds the marks of the first and does nothing."""
        from .rotation.rewrite import orthogonal, rotate

        if not scope.dry and (problem := self.demands().without_torch(scope.origin)):
            raise PlanError(problem)

        def hidden(size: int) -> np.ndarray | None:
            return self._spread(module, size, scope) if self._looks else orthogonal(size, self.seed)

        turned = rotate(module, hidden if self.residual else None, self.values, self.seed, scope, self._looks)
        return turned + (self._learn(module, scope) if self.learned else 0)

    def _spread(self, module: Module, size: int, scope: Scope) -> np.ndarray | None:
        """The rotation of the outliers alone, None where there are none; those inside MLPs are evened out."""
        import numpy as np

        if scope.dry:
            return np.eye(size)
        from ..compiler.calibration import windows as calibrate
        from .rotation.outlier_channels import even_out, largest, spreading

        if scope.calibration is None:
            fail(
                "E0454",
                "`rotate (channels = outliers)` needs a `calibration` block, but the plan has none",
                scope.origin,
                help='add `calibration { text = "calib/*.txt" }`, or leave out `channels`',
            )
        seen = largest(module, calibrate.windows(scope.calibration, module), scope.progress)
        found, factors = seen.outliers(), seen.factors()
        if not found:
            scope.note("rotate: no hidden channel stands out on the calibration text: hidden states stay as they are")
            return None
        told = ", ".join(f"{k} ({value:.4g})" for k, value in list(found.items())[:4])
        scope.note(f"rotate: outliers of hidden channels are spread: {told}{', …' * (len(found) > 4)}")
        if evened := even_out(module, factors):
            scope.note(f"rotate: outliers inside {evened} MLP{'s' * (evened > 1)} are evened out between channels")
        return spreading(size, list(found), self.seed)

    @staticmethod
    def _learn(module: Module, scope: Scope) -> int:
        from ..compiler.ir.annotations import ROTATED

        done = ROTATED.get(module.main) or ()
        if "learned" in done:
            return 0
        ROTATED.set(module.main, (*done, "learned"))
        if scope.dry:
            return 0
        from .rotation.learned_scales import learn_scales

        return learn_scales(module, scope)
