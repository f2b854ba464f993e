"""What a `shadow` line asks for, and the linears that it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...compiler.ir.annotations import FLOAT_WEIGHT
from ...compiler.ir.linears import Linear
from ...compiler.ir.weights import as_weight

Groups = Sequence[Sequence[Linear]]  # the linears of one input together


@dataclass(frozen=True)
class Asked:
    """What the line asks for, as shares."""

    coverage: float
    max_channels: float
    keep_layers: float
    mode: str = "input"
    profile: str = ""  # the file as the plan names it
    inputs: int | None = None  # how many inputs may have a shadow; None: all
    rare: int = 0  # further channels that are read in each call
    weigh: bool = True  # measure what removing each shadow costs, which takes longer than everything else

    def most(self, inputs: int) -> int:
        """The most channels of so many that are corrected."""
        return round(self.max_channels * inputs)

    def kept(self, count: int) -> int:
        """How many of so many linears keep a shadow."""
        return round(self.keep_layers * count)


def input_of(group: Sequence[Linear]) -> str:
    """The name of the op that makes what the linears of `group` read."""
    read = group[0].node.inputs[0]
    producer = None if read is None else read.producer()
    return (None if producer is None else producer.name) or group[0].name


def model_digest(groups: Groups) -> str:
    """What tells the model's linears from another's: names, shapes and float weights."""
    from ..solve.solution_cache import digest, key  # imports torch

    parts = []
    for linear in (linear for group in groups for linear in group):
        source = None if linear.quant is None else FLOAT_WEIGHT.get(linear.quant.q)
        held = linear.weight() if source is None else as_weight(source)
        parts.append(f"{linear.name} {linear.shape} {digest(held)}")
    return key(*parts)
