"""Buckets chosen from how long prompts are: `bucket(tokens = auto, context = auto, max_waste = 20%)`.

    begin     tokens {1, k + 1, 128} at the full context
    add       the number of tokens, or the context, that saves most of the histogram's estimated time
    until     padding is within `max_waste`, and the next one would save less than 3 %, be the seventh graph, or make
              the binary larger than 1.15 times that of one graph

Numbers of tokens are powers of two up to 128, contexts the full one and its halves down to 128 positions. Graphs of one
part share their weights in the binary, so a further one costs its tables and its compile; where padding is still above
`max_waste` then, up to twelve graphs are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .histogram import Histogram
from .prefill import Cost, PromptCost, prompt_cost

GRAPHS = 6  # of a choice beside those that verify drafts, as long as padding is within bounds
MOST = 12
LONGEST = 128  # tokens a call
SHORTEST = 128  # positions of a context
_WORTH = 0.03  # share of the time that a further number has to save
LARGEST = 1.15  # of the binary of one graph
TABLES = 8.0  # bytes of QNN's tables for each row and column of a linear, in every graph: 5.5 to 8.2 were measured


@dataclass(frozen=True)
class Choice:
    """One set of buckets and what the histogram's prompts cost with it."""

    tokens: tuple[int, ...]
    context: tuple[int, ...]
    cost: PromptCost
    tables: float  # of a graph, in bytes of the weights

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(tokens, context) of each graph; one that has no room for a cache is not made."""
        return shapes_of(self.tokens, self.context)

    @property
    def size(self) -> float:
        """Of the binary, in that of its largest graph alone: estimated."""
        return (1 + self.tables * len(self.shapes)) / (1 + self.tables)


@dataclass(frozen=True)
class Chosen:
    """The buckets, and every set on the way to them, the last one chosen; `plain`: {1, 128} at the full context."""

    steps: tuple[Choice, ...]
    plain: Choice

    @property
    def last(self) -> Choice:
        """What is made."""
        return self.steps[-1]


def shapes_of(tokens: Sequence[int], context: Sequence[int]) -> list[tuple[int, int]]:
    """Every pair that leaves room for a cache."""
    return [(t, c) for c in context for t in tokens if t < c]


def choose_buckets(
    context: int,
    histogram: Histogram,
    cost: Cost,
    reads: Cost,
    max_waste: float,
    verify: int | None = None,
    tokens: Sequence[int] = (),
    contexts: Sequence[int] = (),
    tables: float = 0.0,
) -> Chosen:
    """Choose for a model whose cache holds `context` positions; `cost` and `reads` are of a call.

    verify            tokens of a round of speculation: a bucket of as many is made whatever it costs
    tokens, contexts  what the plan states itself: only the other is chosen
    tables            bytes of the compiler's tables for a graph, in bytes of the weights
    """
    longest = contexts[-1] if contexts else context
    asked = histogram.within(longest)

    def judged(some: frozenset[int], reach: frozenset[int]) -> Choice:
        shapes = shapes_of(sorted(some), sorted(reach))
        return Choice(tuple(sorted(some)), tuple(sorted(reach)), prompt_cost(shapes, asked, cost, reads), tables)

    always = {1, *([verify] if verify else [])}
    largest = min(LONGEST, 1 << max(0, (longest - 1).bit_length() - 1))
    now = judged(frozenset(tokens or {*always, largest}), frozenset(contexts or {context}))
    steps = [now]
    more_tokens = [] if tokens else [1 << power for power in range(1, largest.bit_length())]
    more_contexts = [] if contexts else _halves(context)

    def graphs(one: Choice) -> int:
        return len([shape for shape in one.shapes if shape[0] != verify])

    while True:
        options = [
            judged(frozenset({*now.tokens, t}), frozenset(now.context)) for t in more_tokens if t not in now.tokens
        ]
        options += [
            judged(frozenset(now.tokens), frozenset({*now.context, c})) for c in more_contexts if c not in now.context
        ]
        wasteful = now.cost.waste > max_waste
        fitting = [
            one
            for one in options
            if graphs(one) <= (MOST if wasteful else GRAPHS) and (wasteful or one.size <= LARGEST)
        ]
        best = min(fitting, key=_rank(wasteful), default=None)
        if best is None or not (_helps(best, now, wasteful)):
            break
        now = best
        steps.append(now)
    plain = judged(frozenset({1, largest}), frozenset({longest}))
    return Chosen(tuple(steps), plain)


def _rank(wasteful: bool) -> Callable[[Choice], tuple[float, float]]:
    """Least time; while padding is above its bound least padding, where that is less."""
    if wasteful:
        return lambda one: (one.cost.waste, one.cost.seconds)
    return lambda one: (one.cost.seconds, one.cost.waste)


def _helps(best: Choice, now: Choice, wasteful: bool) -> bool:
    if wasteful and best.cost.waste < now.cost.waste - 0.005:
        return True
    return best.cost.seconds < (1 - _WORTH) * now.cost.seconds


def _halves(context: int) -> list[int]:
    found, half = [], context // 2
    while half >= SHORTEST:
        found.append(half)
        half //= 2
    return found
