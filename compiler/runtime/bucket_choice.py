"""The sequence of buckets (static shapes) that processes a given number of tokens.

A bucket t{T}_c{C} takes T new positions on top of at most C - T past ones; padding fills what is left of T. Of all
sequences of full calls with at most one padded call at the end, the one with the least sum of costs is taken
(`estimate/prompt_calls.py`), and each call uses the smallest context C that holds the past and its T positions. The
cost of a call is the bundle's estimate for the device; where there is none,

    CALL_COST + T

because a call reads all the weights whatever its T, which costs as much as computing some tens of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..estimate.prompt_calls import Bucket, cheapest

CALL_COST = 32.0  # in tokens; from emulated runs of one model at T = 1, 4, 16, 64, 128 (docs/running.md)


class Buckets:
    """The buckets of one model. `dynamic`: a single graph without fixed shapes."""

    def __init__(self, entries: Iterable[Mapping[str, Any]], context: int) -> None:
        self.entries = {str(entry["name"]): dict(entry) for entry in entries}
        shapes = [(entry["tokens"], entry["context"], name) for name, entry in self.entries.items()]
        self.dynamic = next((name for tokens, _context, name in shapes if tokens is None), None)
        self._static = sorted(shape for shape in shapes if shape[0] is not None)
        self._costs = [
            Bucket(tokens, longest, self.entries[name].get("cost", CALL_COST + tokens))
            for tokens, longest, name in self._static
        ]
        self.reach: dict[int, int] = {}  # tokens -> the longest context among the buckets of so many tokens
        for tokens, longest, _name in self._static:
            self.reach[tokens] = max(longest, self.reach.get(tokens, 0))
        self.context = context if self.dynamic else max(self.reach.values())

    @property
    def largest(self) -> int | None:
        """The most tokens of one call; None: any number."""
        return None if self.dynamic else max(self.reach)

    def at_least(self, tokens: int) -> int | None:
        """The fewest tokens of a bucket that takes `tokens` in one call, if one does."""
        return min((own for own in self.reach if own >= tokens), default=None)

    def choose(self, tokens: int, length: int) -> str | None:
        """The bucket of `tokens` with the smallest context that holds `length` past positions, if one does."""
        fitting = ((c, name) for t, c, name in self._static if t == tokens and length + t <= c)
        return min(fitting, default=(0, None))[1]

    def plan(self, count: int, length: int) -> list[int] | None:
        """T of each call that takes its share of `count` tokens after `length`; None when no context holds them."""
        found = cheapest(self._costs, count, length)
        return None if found is None else list(found.tokens)
