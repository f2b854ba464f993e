"""Replace float weights by small integers with scales, block by block along the inputs.

    y[.., N] = x[.., K] @ W[N, K]^T   ->   y = x @ (scale[N, K/B] * (q[N, K] - zero_point[N, K/B]))^T

One scale (and for `symmetric = false` one zero point) per block of B inputs of one output, or one per output with
`block = channel`. Linears and embeddings take blocks; convolutions are quantised per channel only. Weights are made
row by row when they are written (`quantize_rtn.py`), always from the float original, so that a later line replaces
an earlier one without adding its error. Two ops that share a weight keep sharing it while both get the same format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.levels import Level
from ..compiler.params import param
from ..compiler.pass_base import Pass, Relative, Scope, Tolerance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..compiler.module import Module
    from ..compiler.weights import Weight
    from .quantize_rtn import Made

_STEP = {
    "int2": 1 / 2,
    "int3": 1 / 6,
    "int4": 1 / 14,
    "int8": 1 / 254,
}  # half a step over the largest weight of the block
_SPREAD = {16: 1.5, 32: 1.8, 64: 2.1, 128: 2.4}  # how far weights of one block typically lie below its largest
_CHANNEL_SPREAD = 3.0


@dataclass(frozen=True)
class Quantize(Pass):
    """Store weights as integers of 2, 3, 4 or 8 bits with a scale per block of inputs or per channel."""

    name: ClassVar[str] = "quantize"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC, Level.COMPRESSED)
    leaves: ClassVar[Level | None] = Level.COMPRESSED

    weights: str = param(doc="integer type of the weights", choices=("int2", "int3", "int4", "int8"))
    block: int | str = param(
        32,
        doc="inputs that share one scale; `channel`: all inputs of an output",
        choices=(16, 32, 64, 128, "channel"),
    )
    symmetric: bool = param(True, doc="false: one zero point per block beside the scale")
    method: str = param(
        "rtn",
        doc="how integers are chosen; awq, gptq and reconstruct read the plan's `calibration`",
        choices=("rtn", "mse", "hqq", "awq", "gptq", "reconstruct"),
    )
    activations: str = param("fp16", doc="type of the activations", choices=("fp16",))

    @property
    def tolerance(self) -> Tolerance:
        """A few layers of rounding noise; how much a block's largest weight stands out decides."""
        spread = _CHANNEL_SPREAD if isinstance(self.block, str) else _SPREAD[self.block]
        return Relative(3 * _STEP[self.weights] * spread, f"{self.weights} weights")

    @property
    def moves_cache(self) -> bool:
        """awq scales v_proj against o_proj, and with it what the V cache holds."""
        return self.method == "awq"

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many uses of a weight got a new format."""
        from .quantize_graph import quantize_graph
        from .quantize_rtn import Format

        block = None if isinstance(self.block, str) else self.block
        format_ = Format(int(self.weights.removeprefix("int")), block, self.symmetric, self.method)
        if self.method == "rtn":
            return quantize_graph(module.main.graph, module, format_, scope)
        from .solve.run import Settings, Wanted, solve

        def solver(weights: Mapping[str, Weight]) -> dict[str, Made]:
            wanted = {name: Wanted(weight, format_) for name, weight in weights.items()}
            return solve(module, wanted, Settings(self.method), scope)

        return quantize_graph(module.main.graph, module, format_, scope, solver)
