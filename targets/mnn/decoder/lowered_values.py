"""What a value of the semantic graph is while it is lowered: a tensor of MNN's, or something on its way to one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ....compiler.ir.linears import Linear


@dataclass(frozen=True)
class HiddenState:
    """A tensor [S, width, 1, 1] in MNN's packed layout."""

    index: int
    width: int


@dataclass
class Pending:
    """A linear that waits for its bias; `index` once it is written."""

    x: HiddenState
    linear: Linear
    bias: np.ndarray | None = None
    index: int | None = None


@dataclass
class Sum:
    """A residual sum that waits for the norm that takes it; `index` once it is lowered."""

    name: str
    left: HiddenState
    right: HiddenState
    index: int | None = None


@dataclass(frozen=True)
class Normed:
    """The norm of each head, which MNN's RoPE op applies before it rotates."""

    gain: np.ndarray
    epsilon: float


@dataclass(frozen=True)
class Heads:
    """A projection seen as heads: `split` [B,S,heads,dim], then `by_head` [B,heads,S,dim]."""

    x: HiddenState
    heads: int
    dim: int
    stage: Literal["split", "by_head"] = "split"
    norm: Normed | None = None
    turn: tuple[int, int] | None = None  # cos, sin [S, dim]

    def with_norm(self, norm: Normed) -> Heads:
        """The same heads, normalised by `norm`."""
        return replace(self, norm=norm)

    def by_head(self) -> Heads:
        """The same heads after the transpose to [B, heads, S, dim]."""
        return replace(self, stage="by_head")

    def rotated(self, turn: tuple[int, int]) -> Heads:
        """The same heads after a rotary embedding by the pair of tensors `turn` (cosines, sines)."""
        return replace(self, turn=turn)


@dataclass(frozen=True)
class Attended:
    """The result of an attention: MNN's is [S, heads*dim, 1, 1] already, the graph's still [B,heads,S,dim]."""

    index: int
    heads: int
    dim: int
    swapped: bool = False


@dataclass(frozen=True)
class Gate:
    """silu(x), waiting for the projection it gates."""

    x: HiddenState


@dataclass(frozen=True)
class Positions:
    """The positions [1, S], integers or floats."""

    index: int


@dataclass(frozen=True)
class Angle:
    """Positions times frequencies [S, dim/2], or the positions as a column [S, 1]."""

    index: int


@dataclass(frozen=True)
class Rotary:
    """cos or sin of the angles [S, dim/2], times a factor perhaps."""

    index: int
    op: str
