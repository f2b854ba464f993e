"""What a draft of k tokens a round brings, and which k brings most.

    tokens a round = (1 - a^(k+1)) / (1 - a)            a: chance that the target accepts a drafted token
    cost of it     = 1 + k c                            c: cost of a token of the draft, in calls of the target
    gain           = tokens a round / cost              tokens a second, in those of the target alone

(Leviathan et al. 2023, arXiv 2211.17192, theorem 3.8.) A call of the target on k + 1 tokens reads what a call on one
reads, so it counts as one call.
"""

from __future__ import annotations

from .fit import npu_fit
from .published import published, shape_of
from .work import decoder_work

MOST = 15  # drafted tokens a round that `k = auto` considers
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
