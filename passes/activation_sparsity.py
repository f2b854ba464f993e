"""Cut the input of linears to its largest channels, so that a token needs the weights of these channels alone.

    y[.., N] = x[.., K] @ W[N, K]^T   ->   y = x' @ W^T,    x'_i = x_i where |x_i| is among the k largest, else 0

Each token chooses its own k channels. What stays zero needs no row of W: a runtime that swaps weights reads k / K of
them (ActiveFlow, arXiv 2504.08378; TEAL, arXiv 2408.14690). Kernels that multiply dense matrices read all. The k-th
largest of equal magnitudes stays with its equals. Linears that read one tensor share the cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.ir.levels import Level
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from ..compiler.plan.parameters import param

if TYPE_CHECKING:
    from ..compiler.ir.module import Module

_LOOSE = 1.5  # random inputs spread over all channels: what a text's channels carry is for perplexity to say


@dataclass(frozen=True)
class ActivationSparsity(Pass):
    """Cut the inputs of linears to their largest channels, token by token."""

    name: ClassVar[str] = "activation_sparsity"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC, Level.COMPRESSED)
    keeps_shapes: ClassVar[bool] = True

    top_k: float = param(
        doc="share of a linear's input channels that a token keeps, to the nearest whole channel, at least one",
        unit="%",
        minimum=0.001,
        maximum=1,
    )

    @property
    def tolerance(self) -> Tolerance:
        """What it cuts is what it saves."""
        return Tolerance(_LOOSE, "channels cut")

    @property
    def moves_cache(self) -> bool:
        """Keys and values are made of what is cut."""
        return True

    @property
    def moves_inside(self) -> bool:
        """Hidden states are."""
        return True

    def demands(self) -> Demands:
        """A target that chooses channels while it runs."""
        return Demands(chooses_channels=True)

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many linears read fewer channels than before."""
        from .activations.top_channels import cut_inputs

        return cut_inputs(module, scope, self.top_k)
