"""Keep outliers of activations out of the NPU's 8 bits: the few channels that carry them are corrected on the CPU.

    y = Q(clip(x)) Wq + (x - clip(x))[hot] W[hot, :]          x [.., K], Q static uint8, hot: a few of K channels

One range per tensor is what an NPU runs fastest and what outliers break. The first summand is the linear as it is, in
static integers; the second gathers the hot channels of the unclipped input and multiplies by their float rows, beside
the NPU. Ranges, channels and what each is worth are profiled on the calibration text (llm.npu, arXiv 2407.05858).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.diagnostics.diagnostic import PlanError
from ..compiler.ir.levels import Level
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from ..compiler.plan.parameters import param

if TYPE_CHECKING:
    from ..compiler.ir.module import Module


@dataclass(frozen=True)
class Shadow(Pass):
    """Correct outliers of 8-bit activations on the CPU, beside the NPU, for the channels that carry them."""

    name: ClassVar[str] = "shadow"
    takes: ClassVar[tuple[Level, ...]] = (Level.COMPRESSED,)
    keeps_shapes: ClassVar[bool] = True
    behind: ClassVar[str] = (
        "it leaves to the CPU what 8-bit activations of an NPU cannot hold: put "
        "`quantize (weights = int8, block = channel, activations = uint8)` in front of it"
    )
    profiles: ClassVar[bool] = True

    coverage: float = param(
        0.8,
        doc="how much of the error of clipping the corrected channels of a linear have to carry; a linear whose "
        "outliers are spread wider is clipped only",
        unit="%",
        minimum=0,
        maximum=1,
    )
    max_channels: float = param(
        0.03,
        doc="how many of a linear's input channels may be corrected, to the nearest whole channel",
        unit="%",
        minimum=0,
        maximum=1,
        also_called=("channels", "max_rows"),
    )
    keep_layers: float = param(
        1.0,
        doc="share of the line's linears that keep a shadow: those whose outliers matter most for the logits; the "
        "others are clipped where that costs least",
        unit="%",
        minimum=0,
        maximum=1,
        also_called=("keep", "shadow_layers"),
    )
    crossings: float = param(
        0.0,
        doc="how often values may go between NPU and CPU for shadows, a layer on average: each input with a shadow is "
        "there and back; those whose outliers matter most are kept; 0: as often as there are shadows",
        minimum=0,
        also_called=("max_crossings",),
    )
    mode: str = param(
        "input",
        doc="what is corrected; input: what exceeds the range of a linear's input; output: what exceeds that of its "
        "output, in the channels that do, which are computed again from float rows; both",
        choices=("input", "output", "both"),
        also_called=("correct",),
    )

    rare: str = param(
        "clip",
        doc="what becomes of an input's outliers outside of the corrected channels, which notes count; clip: they are "
        "clipped; read: the channels of the largest in a call are corrected too, from weights in a file that is mapped",
        choices=("clip", "read"),
        goes_with=("mode", ("input", "both")),
    )
    rare_channels: int = param(
        16,
        doc="with `rare = read`: how many channels of an input may be read in a call; what is beyond them is clipped",
        minimum=1,
        goes_with=("rare", ("read",)),
    )
    profile: str = param(
        "",
        doc="a file that `edgec profile` has written, beside the plan: its ranges and channels are used, and none are "
        "measured; without it they are",
        also_called=("profile_file", "stats"),
    )

    force: bool = param(
        False,
        doc="take the shadows although the CPU needs longer for them than the NPU for what it does meanwhile",
    )

    @property
    def tolerance(self) -> Tolerance:
        """What outliers had broken is right again, and ranges are those of calibration text, not of random inputs."""
        return Tolerance(0.5, "uint8 activations with outliers")

    def demands(self) -> Demands:
        """Calibration text and torch, for a decoder."""
        return Demands(
            calibration="shadow",
            without_calibration="leave out `shadow`",
            torch="shadow",
            decoder="shadow",
            npu="shadow",
            hides=not self.force,
        )

    @property
    def moves_cache(self) -> bool:
        """Keys and values are rounded in other ranges."""
        return True

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many linears were clipped or split, and how many activations got another range."""
        if not scope.dry and (problem := self.demands().without_torch(scope.origin)):
            raise PlanError(problem)
        from .outliers.asked import Asked
        from .outliers.rewrite import shadow

        layers = module.arch.layers if module.arch is not None else 1
        inputs = round(self.crossings * layers / 2) if self.crossings else None
        rare = self.rare_channels if self.rare == "read" else 0
        weigh = scope.profiling or self.keep_layers < 1 or inputs is not None
        asked = Asked(self.coverage, self.max_channels, self.keep_layers, self.mode, self.profile, inputs, rare, weigh)
        return shadow(module, asked, scope)
