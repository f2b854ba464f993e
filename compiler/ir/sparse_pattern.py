"""Patterns of zeros along the inputs of a weight.

    N:M     of every M consecutive inputs of an output at most N are not zero
    pairs   of the four pairs (k, k + 4) in eight consecutive inputs at most two are not zero: HTP's order of 4 bits

A group is what a pattern speaks of (M inputs, or 8), a unit what is kept or dropped as one (an input, or a pair):

    2:4    group 4, units (0) (1) (2) (3),                  2 kept
    pairs  group 8, units (0, 4) (1, 5) (2, 6) (3, 7),      2 kept

Imports nothing heavy: a plan's checker asks about patterns before any array library is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

PAIRS = "pairs"
LARGEST_GROUP = 64
_N_OF_M = re.compile(r"([1-9][0-9]*):([1-9][0-9]*)")
_PAIRED = 4  # inputs between the two of a pair


@dataclass(frozen=True)
class Sparsity:
    """A pattern along one axis of a tensor: `2:4` or `pairs`; axis 1 is the inputs of a weight [N, K]."""

    pattern: str
    axis: int = 1

    def __post_init__(self) -> None:
        if not self.keep < len(self.units):
            raise ValueError(f"`{self.pattern}` leaves nothing out")

    @property
    def _counts(self) -> tuple[int, int]:
        found = _N_OF_M.fullmatch(self.pattern)
        if found is None:
            raise ValueError(f"`{self.pattern}` is no pattern like 2:4, nor `{PAIRS}`")
        return int(found[1]), int(found[2])

    @property
    def group(self) -> int:
        """Consecutive inputs that one choice is made among."""
        return 2 * _PAIRED if self.pattern == PAIRS else self._counts[1]

    @property
    def keep(self) -> int:
        """Units of a group that may be other than zero."""
        return 2 if self.pattern == PAIRS else self._counts[0]

    @property
    def units(self) -> tuple[tuple[int, ...], ...]:
        """The inputs of each unit, as offsets within a group."""
        if self.pattern == PAIRS:
            return tuple((k, k + _PAIRED) for k in range(_PAIRED))
        return tuple((k,) for k in range(self.group))

    def turned(self) -> Sparsity:
        """The same of the transposed tensor."""
        return replace(self, axis=1 - self.axis)

    def __str__(self) -> str:
        return self.pattern if self.axis == 1 else f"{self.pattern} along axis {self.axis}"
