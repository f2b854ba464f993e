"""Set weights to zero in a pattern that engines and files can use, and state the pattern on each of them.

    y[.., N] = x[.., K] @ W[N, K]^T   ->   y = x @ V^T,    V[n, g M : (g + 1) M] with at most N numbers that are not 0

Of every M inputs of an output N are kept (2:4, 4:8, …), or with `pairs` two of the four pairs (k, k + 4) in eight. The
pattern is a fact about the weight (`compiler/ir/sparsity.py`): the passes behind this one keep its zeros, `quantize`
with every method, and a legality check compares the numbers with it after each of them. Embeddings are looked up by
rows and norms are vectors: they are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.diagnostics.diagnostic import PlanError
from ..compiler.ir.levels import Level
from ..compiler.ir.sparse_pattern import LARGEST_GROUP, PAIRS, Sparsity
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import EXACT, Pass, Scope, Tolerance
from ..compiler.plan.parameters import Pattern, param
from .sparsity.groups import indivisible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..compiler.diagnostics.diagnostic import Diagnostic, Span
    from ..compiler.ir.module import Module

_CALIBRATED = ("wanda", "sparsegpt")
_EMBEDDING = "embed_tokens"  # of a decoder: its rows are looked up


@dataclass(frozen=True)
class Sparsify(Pass):
    """Set weights of linears to zero in a pattern: N of every M inputs are kept."""

    name: ClassVar[str] = "sparsify"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC,)
    keeps_shapes: ClassVar[bool] = True

    pattern: Pattern | str = param(  # noqa: RUF009 - it only describes
        Pattern(2, 4),
        doc="2:4 keeps two of every four inputs of an output, N:M any N of M; pairs: two of the four pairs "
        "(k, k + 4) in eight inputs",
        choices=(PAIRS,),
        also_called=("sparsity", "mask_structure", "structure", "prune_n_m", "mask", "ratio"),
        meant={"0.5": "pattern = 2:4", "50%": "pattern = 2:4", "unstructured": "a pattern is N of every M inputs."},
    )
    method: str = param(
        "magnitude",
        doc="how it is chosen which weights are kept; magnitude: the largest; wanda: the largest times their inputs; "
        "sparsegpt: those whose loss the others make good best, which are changed for it; keep: those of a model that "
        "is pruned already, which is verified. wanda and sparsegpt need the plan's `calibration`",
        choices=("magnitude", "wanda", "sparsegpt", "keep"),
        also_called=("algorithm", "algo", "pruner", "pruning_method"),
        meant={"mag": "method = magnitude", "none": "method = keep", "verify": "method = keep"},
    )

    swaps: bool = param(
        False,
        doc="true: afterwards kept and dropped weights of a group are exchanged as long as that lowers the error",
        also_called=("swap", "sparse_swaps", "refine_mask"),
        goes_with=("method", _CALIBRATED),
    )
    recover: str = param(
        "none",
        doc="whether kept weights are changed to make the loss good; layer: those of each linear, by least squares; "
        "blocks: then those of each attention and each MLP together, by gradient",
        choices=("none", "layer", "blocks"),
        also_called=("reconstruct", "retrain", "finetune", "update_weights"),
        goes_with=("method", _CALIBRATED),
    )

    permute: bool = param(
        False,
        doc="true: inputs are first put in an order in which groups lose less, folded into the weights before them: "
        "inside the MLP, within the heads' values, and the hidden states",
        also_called=("permutation", "channel_permutation"),
        goes_with=("method", _CALIBRATED),
    )

    @property
    def sparsity(self) -> Sparsity:
        """The pattern as a fact about a weight [N, K]."""
        return Sparsity(str(self.pattern))

    @property
    def tolerance(self) -> Tolerance:
        """Half of the weights are gone: on random inputs outputs move by about their own size."""
        return EXACT if self.method == "keep" else Tolerance(2.0, f"{self.pattern} weights")

    def demands(self) -> Demands:
        """The pattern; what `keep` finds in it costs nothing."""
        calibrated = f"method = {self.method}" if self.method in _CALIBRATED else None
        return Demands(
            sparse=str(self.pattern),
            prunes=self.method != "keep",
            calibration=calibrated,
            without_calibration="use `method = magnitude`, which needs none" if calibrated else None,
            torch=calibrated,
            decoder=calibrated,
        )

    @property
    def moves_cache(self) -> bool:
        """Values of a head are held in another order."""
        return self.permute

    @property
    def moves_inside(self) -> bool:
        """And so are hidden states."""
        return self.permute

    def validate(self) -> list[str | tuple[str, ...]]:
        """Groups that engines and files can hold."""
        if isinstance(self.pattern, Pattern) and self.pattern.m > LARGEST_GROUP:
            return [("pattern", f"a group has at most {LARGEST_GROUP} inputs, `{self.pattern}` has {self.pattern.m}")]
        return []

    def check(self, weights: Mapping[str, tuple[int, int]], origin: Span) -> Iterable[Diagnostic]:
        """Groups have to divide the inputs of every weight that the line selects, but for the embedding."""
        group = self.sparsity.group
        wrong = {name: k for name, (_, k) in weights.items() if k % group and name != _EMBEDDING}
        if wrong:
            yield indivisible(self.sparsity, wrong, origin)

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many weights got the pattern; one that has it already is left alone."""
        from .sparsity.rewrite import How, calibrated, keep, prune

        if self.method == "keep":
            return keep(module, self.sparsity, scope)
        if self.method == "magnitude":
            return prune(module, self.sparsity, scope)
        if not scope.dry and (problem := self.demands().without_torch(scope.origin)):
            raise PlanError(problem)
        how = How(self.method, self.swaps, self.recover, self.permute)
        return calibrated(module, self.sparsity, how, scope)
