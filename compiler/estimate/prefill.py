"""What prompts of a histogram cost with a set of buckets: time, padding, bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .histogram import Histogram
from .lane_speed import ChipSpeed
from .prompt_calls import Bucket, cheapest
from .work import ModelWork

Cost = Callable[[int, int], float]  # tokens, context -> seconds of a call, or bytes


@dataclass(frozen=True)
class PromptCost:
    """Over the prompts of a histogram: seconds, slots computed for tokens and for padding, bytes read.

    `unfit`: share of the prompts that no sequence of buckets holds; they count in nothing else.
    """

    seconds: float
    tokens: float
    slots: float
    read: float
    unfit: float

    @property
    def waste(self) -> float:
        """Padding as a share of all slots, 0 to 1."""
        return 1 - self.tokens / self.slots if self.slots else 0.0

    @property
    def rate(self) -> float:
        """Tokens of prompt a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


def call_cost(speed: ChipSpeed, work: ModelWork, residual: float = 1.0) -> Cost:
    """Seconds of a call on the chip; without speeds for it, a measure that orders calls all the same."""
    if speed.serves(work):
        return lambda tokens, context: speed.call_seconds(work, tokens, context, residual)
    return lambda tokens, context: 32.0 + tokens


def prompt_cost(shapes: Iterable[tuple[int, int]], histogram: Histogram, cost: Cost, reads: Cost) -> PromptCost:
    """The prompts of `histogram`, each by its cheapest sequence of buckets; `reads`: bytes of a call."""
    buckets = [Bucket(tokens, context, cost(tokens, context)) for tokens, context in shapes]
    seconds = tokens = slots = read = unfit = 0.0
    for length, often in histogram.rows:
        sizes = _sequence(buckets, length)
        if sizes is None:
            unfit += often
            continue
        done = 0
        for size in sizes:
            context, spent = min(
                ((one.context, one.cost) for one in buckets if one.tokens == size and done + size <= one.context),
                key=lambda one: one[1],
            )
            seconds += often * spent
            read += often * reads(size, context)
            slots += often * size
            done += size
        tokens += often * length
    counted = sum(often for _, often in histogram.rows)
    return PromptCost(seconds, tokens, slots, read, unfit / counted if counted else 0.0)


def free_prompt_cost(piece: int, histogram: Histogram, cost: Cost, reads: Cost) -> PromptCost:
    """As `prompt_cost`, of an engine that takes any number of tokens, up to `piece` a call, and pads nothing."""
    seconds = read = 0.0
    for length, often in histogram.rows:
        for done in range(0, length, piece):
            size = min(piece, length - done)
            seconds += often * cost(size, done + size)
            read += often * reads(size, done + size)
    return PromptCost(seconds, histogram.tokens, histogram.tokens, read, 0.0)


def _sequence(buckets: Sequence[Bucket], length: int) -> tuple[int, ...] | None:
    """As `cheapest`, with the beginning of a long prompt in calls of the most tokens, which cost least for each."""
    largest = max(bucket.tokens for bucket in buckets)
    skipped = max(0, length // largest - 2)
    found = cheapest(buckets, length - skipped * largest, skipped * largest)
    return None if found is None else (largest,) * skipped + found.tokens
