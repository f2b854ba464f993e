"""What a draft of k tokens a round brings, and which k brings most.

    tokens a round = (1 - a^(k+1)) / (1 - a)            a: chance that the target accepts a drafted token
    cost of it     = 1 + k c                            c: cost of a token of the draft, in calls of the target
    gain           = tokens a round / cost              tokens a second, in those of the target alone

(Leviathan et al. 2023, arXiv 2211.17192, theorem 3.8.) A call of the target on k + 1 tokens reads what a call on one
reads, so it counts as one call. A tree of n tokens, of which k are expanded, is judged by

    chance that the token is among the m likeliest = 1 - (1 - a) / m
    tokens a round = 1 + sum of the chances of its nodes to stand, the best n of them

and an outcome of a round (nodes that stand, then a token that is none of theirs) by the same chances, which tells how
often one of so many prepared outcomes comes. On the example pair both are within 4 % of what was counted (running.md).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from .fit import npu_fit
from .published import published, shape_of
from .work import decoder_work

MOST = 15  # drafted tokens a round that `k = auto` considers
PREPARED = 64  # outcomes of a round that are prepared beside it, at most
_POWERS = (1, 2, 4, 8, 16, 32, 64)  # outcomes that a draft reads at once
_K = 3  # drafted tokens a round that the published pairs are taken to have had: what edgec recommends
_CONTEXT = 1024  # positions they are taken to have had in their caches


def tokens_per_round(acceptance: float, k: int) -> float:
    """Tokens that a round yields on average, 1 to k + 1."""
    return k + 1.0 if acceptance >= 1 else (1 - acceptance ** (k + 1)) / (1 - acceptance)


def gain(acceptance: float, k: int, cost: float) -> float:
    """Tokens a second with a draft of k tokens, in those of the target alone."""
    return tokens_per_round(acceptance, k) / (1 + k * cost)


def best_k(acceptance: float, cost: float) -> int:
    """The k with the largest gain; the smallest of several."""
    return max(range(1, MOST + 1), key=lambda k: (gain(acceptance, k, cost), -k))


@dataclass(frozen=True)
class Drafts:
    """A chain or a tree as it is expected: chance of each node to stand, the text's end first, and its children."""

    chances: tuple[float, ...]
    children: tuple[int, ...]
    acceptance: float

    @property
    def tokens(self) -> float:
        """Of a round, on average."""
        return sum(self.chances)

    def ready(self, outcomes: int) -> float:
        """How often the next round is one of the `outcomes` likeliest."""
        return sum(chance for chance, _ in self._outcomes(outcomes))

    def within(self, calls: float, k: int, most: int) -> int:
        """How many outcomes `calls` of a draft prepare that reads one path at a time.

        k each, and one for each node after which it was not asked what comes.
        """
        asked = {node for node, own in enumerate(self.children) if own}
        for count, (_, node) in enumerate(self._outcomes(most)):
            calls -= k + (node not in asked)
            asked.add(node)
            if calls < 0:
                return count
        return most

    def _outcomes(self, most: int) -> list[tuple[float, int]]:
        """(chance, node after which it comes) of the likeliest."""
        every = (
            (chance * _rank(self.acceptance, own + at), node)
            for node, (chance, own) in enumerate(zip(self.chances, self.children, strict=True))
            for at in range(most)
        )
        return heapq.nlargest(most, every)


def drafts(acceptance: float, k: int, tree: int = 0) -> Drafts:
    """What k calls of the draft make: a chain, or the likeliest `tree` nodes."""
    chances, children, calls = [1.0], [0], k - 1
    waiting = [(-_rank(acceptance, 0), 0)]  # (-chance, parent) of the next child of each expanded node
    while waiting and len(chances) <= (tree or k):
        chance, parent = heapq.heappop(waiting)
        children[parent] += 1
        chances.append(-chance)
        children.append(0)
        if tree:
            heapq.heappush(waiting, (-chances[parent] * _rank(acceptance, children[parent]), parent))
        if calls > 0:
            calls -= 1
            heapq.heappush(waiting, (chance * _rank(acceptance, 0), len(chances) - 1))
    return Drafts(tuple(chances), tuple(children), acceptance)


def _rank(acceptance: float, at: int) -> float:
    """Chance that the draft's choice number `at`, from 0, is the target's."""
    return acceptance if at == 0 else (1 - acceptance) / at - (1 - acceptance) / (at + 1)


@dataclass(frozen=True)
class Overlap:
    """A round whose drafts are made beside the round before it, in seconds; `outcomes`: that the draft has time for.

    found    a round whose outcome was prepared: the longer of both lanes
    missed   one after another: the drafts are made anew, then verified
    """

    outcomes: int
    ready: float
    found: float
    missed: float

    @property
    def round(self) -> float:
        """The mean of both."""
        return self.ready * self.found + (1 - self.ready) * self.missed


def overlap(
    shape: Drafts, k: int, verify: float, token: float, batch: Callable[[int], float] | None, most: int
) -> Overlap:
    """What working at once brings. `verify`, `token`: seconds of a call of the target, and of the draft for a token;
    `batch`: of the draft for so many tokens at once, None where its engine reads one path at a time.
    """
    if batch is None:
        outcomes, first = max(1, shape.within(verify / token, k, most)), k * token
    else:
        # its first call reads the round's own nodes, those behind it a token of each outcome
        times = {n: batch(max(n, len(shape.chances))) + k * batch(n) for n in _POWERS if n <= most}
        outcomes = max((n for n, seconds in times.items() if seconds <= verify), default=1)
        first = times[outcomes]
    return Overlap(outcomes, shape.ready(outcomes), max(verify, first), verify + k * token)


def acceptance_for(wanted: float, k: int, cost: float) -> float:
    """The acceptance at which a draft of k tokens gains `wanted`, by halving; 1 where none does."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gain(middle, k, cost) < wanted else (low, middle)
    return high


def published_pairs() -> list[tuple[float, float, float]]:
    """(gain, cost ratio, acceptance behind it) of each published pair."""
    found = []
    for pair in published()["speculation"]["pairs"]:
        measured = pair["with"] / pair["alone"]
        cost = _seconds(pair["draft"]) / _seconds(pair["target"])
        found.append((measured, cost, acceptance_for(measured, _K, cost)))
    return found


def predicted_gain(cost: float, acceptance: float) -> float:
    """The gain of a pair at the k that the published ones are taken to have had."""
    return gain(acceptance, _K, cost)


def usual_acceptance() -> float:
    """The mean acceptance behind the published pairs: what stands in where none was measured."""
    pairs = published_pairs()
    return sum(acceptance for *_, acceptance in pairs) / len(pairs)


def _seconds(model: str) -> float:
    """Of a call on the NPU; the chip's speed cancels in a ratio."""
    table, known = published()["npu_decode"], npu_fit()
    widths = table["linear_bytes"], table["head_bytes"], table["cache_bytes"]
    part = decoder_work(model, shape_of(model), _CONTEXT, *widths).parts[0]
    return known.seconds(known.rates[0].chip, part.weights, part.cache(_CONTEXT)) * known.residual(shape_of(model))
