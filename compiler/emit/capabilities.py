"""What a target states about itself, and what it says to a demand it cannot meet.

    takes(demands, kv) -> Refusal, …        compared with what lines of the pipeline and the deploy line ask for

A refusal is a sentence about a subject that may be many: `{}` stands for it, so that 28 nodes refused for one reason
are one diagnostic (`refused`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..diagnostics.wording import join_or

if TYPE_CHECKING:
    from ..pipeline.demands import Demands
    from .conformance.op_class import Use

Cause = Literal["place", "format", "shape"]  # which line of the plan a user would change: where a node runs, its
# weight's format, or the numbers of tokens and positions


@dataclass(frozen=True)
class Refusal:
    """Why something is not taken. In `message` and `help`, `{}` stands for the subject, e.g. the name of a node."""

    code: str
    message: str
    node: str = ""  # empty: the refusal is of a whole deploy or of a line
    help: str | None = None
    cause: Cause = "place"
    alone: bool = True  # whatever the node reads; False: perhaps only because what it reads was refused
    unproven: tuple[Use, ...] = field(default=(), compare=False)  # only because no table holds these: they can be run


@dataclass(frozen=True)
class Capabilities:
    """What a target runs. Types of activations and caches are named as plans name them; `fp16`: its own floats."""

    places: frozenset[str]  # devices it emits for: `cpu`, `npu`
    activations: tuple[str, ...] = ("fp16",)
    caches: tuple[str, ...] = ("fp16",)
    # bits that integers are stored in (narrower ones take the next) -> bytes beside each weight, its scales left out
    widths: Mapping[int, int] = field(default_factory=lambda: {4: 0, 8: 0})
    integer_widths: Mapping[int, int] | None = None  # the same beside integer activations, where they are others
    minimums: bool = False  # stores a block's smallest value as a float, as GGUF's Q4_1 does
    lookups: bool = True  # looks rows up in quantised tables; where not, they are looked up on the CPU
    table_lookup: bool = (
        False  # has, where it runs on the CPU, kernels for edgec's own ops that multiply by table lookup
    )
    chooses_channels: bool = False  # has ops that find a tensor's largest channels, and mask the others
    orders: frozenset[str] = frozenset()  # in which it lays weights out in its file, beside its own
    patterns: frozenset[str] = frozenset()  # of sparse weights, that it stores in fewer bytes than dense ones
    beside: bool = False  # runs parts of a model that another target is deployed for

    def takes(self, target: str, demands: Demands, wording: Wording) -> Iterator[Refusal]:
        """What of a line's demands has no form here; help names the installed targets that have one."""
        integers = demands.activations
        if integers is not None and integers not in self.activations:
            yield Refusal(
                "E0220",
                f"`as {target}` computes in floats, and `{{}}` asks for {integers} activations",
                help=f"{wording.takers(lambda one: integers in one.activations, f'{integers} activations')}; "
                "leave them out, or use another pipeline for this model",
            )
        if demands.table_lookup and not self.table_lookup:
            takers = wording.takers(lambda one: one.table_lookup and "cpu" in one.places, "linears by table lookup")
            yield Refusal(
                "E0223",
                f"`as {target}` has no op for what `{{}}` makes of a linear",
                help=f"{takers}; leave it out, or use another pipeline for this model",
            )

        if demands.chooses_channels and not self.chooses_channels:
            takers = wording.takers(lambda one: one.chooses_channels, "channels that a token chooses")
            yield Refusal(
                "E0243",
                f"`as {target}` has no ops that choose channels while it runs, as `{{}}` asks",
                help=f"{takers}; leave it out, or use another pipeline for this model",
            )
        if demands.order is not None and demands.order not in self.orders:
            takers = wording.takers(lambda one: demands.order in one.orders, f"`order = {demands.order}`")
            yield Refusal(
                "E0242",
                f"`as {target}` lays out the weights of its file itself, whatever `{{}}` says",
                help=f"{takers}; leave it out, or use another pipeline for this model",
            )

    def takes_cache(self, target: str, kind: str, wording: Wording) -> Iterator[Refusal]:
        """Whether it holds a K/V cache of this type."""
        if kind not in self.caches:
            taken = wording.takers(lambda one: kind in one.caches, f"a {kind} cache")
            help = f"{taken}; leave out `kv`"
            yield Refusal("E0221", f"`as {target}` has no {kind} K/V cache", help=help)


@dataclass(frozen=True)
class Wording:
    """What the installed targets can do, for help texts: name -> capabilities, read when a refusal needs it."""

    installed: Callable[[], Mapping[str, Capabilities]]

    def takers(self, can: Callable[[Capabilities], bool], what: str) -> str:
        """`as qnn` takes uint16 activations."""
        names = [f"`as {name}`" for name, one in self.installed().items() if can(one)]
        verb = "takes" if len(names) == 1 else "take"
        return f"{join_or(names, 'and')} {verb} {what}" if names else f"no installed target takes {what}"
