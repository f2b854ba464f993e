"""The cheapest sequence of buckets for a prompt.

A bucket t{T}_c{C} takes T new positions while they and the past fit into C, at a cost that the device's roofline gives.
Of all sequences of full calls with at most one padded call at the end, the one with the least sum of costs is taken:

    f[s]  = min over T of  f[s - T] + cost(T, C)          all s positions done by full calls
    total = min over s, T  of  f[s] + cost(T, C)          s < count <= s + T

C is always the cheapest context that holds s + T, so a prompt grows from short contexts to long ones by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Bucket(NamedTuple):
    """A static shape and the cost of a call of it, in any unit."""

    tokens: int
    context: int
    cost: float


class Calls(NamedTuple):
    """The tokens of each call in order, and the sum of their costs."""

    tokens: tuple[int, ...]
    cost: float


def cheapest(buckets: Sequence[Bucket], count: int, past: int = 0) -> Calls | None:
    """The calls that take `count` tokens behind `past` positions; None where no context holds them."""
    sizes = sorted({bucket.tokens for bucket in buckets})
    at = {size: _by_end([one for one in buckets if one.tokens == size]) for size in sizes}
    best: list[tuple[float, int]] = [(0.0, 0)]  # of s positions done: cost, T of the last call (the smallest of equals)
    for done in range(1, count):
        full = [(best[done - size][0] + _cost(at[size], past + done), size) for size in sizes if size <= done]
        best.append(min(full, default=(math.inf, 0)))
    ends = [
        (best[done][0] + _cost(at[size], past + done + size), size, done)
        for size in sizes
        for done in range(max(0, count - size), count)
    ]
    total, last, done = min(ends, default=(math.inf, 0, 0))
    if math.isinf(total):
        return None
    calls = [last]
    while done:
        calls.append(best[done][1])
        done -= calls[-1]
    return Calls(tuple(reversed(calls)), total)


def _by_end(buckets: Iterable[Bucket]) -> list[tuple[int, float]]:
    """(context, least cost of a call that ends within it), contexts ascending."""
    found: list[tuple[int, float]] = []
    for bucket in sorted(buckets, key=lambda one: -one.context):
        cost = min(bucket.cost, found[-1][1] if found else math.inf)
        found.append((bucket.context, cost))
    return found[::-1]


def _cost(ends: Sequence[tuple[int, float]], end: int) -> float:
    return next((cost for context, cost in ends if end <= context), math.inf)
