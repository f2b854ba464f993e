"""Which range the inputs of a linear are clipped to, and which channels are corrected beyond it.

    cost(t) = sum_k w_k (min(step(t)^2 / 12, m_k) + excess_k(t))       over channels k that are not corrected
    excess_k(t) = mean (|x_k| - t)^2 where |x_k| > t,   w_k = sum_n W[n, k]^2,   m_k = mean x_k^2

The range is [max(least x, -t), min(largest x, t)]; t is searched on a geometric grid from the largest |x| down. Without
corrected channels this is clip search alone: the range of the least error of the linear's output, as far as channels
are independent. With them the channels of the most w_k excess_k are left out of the sum, up to a number. Where a number
of rare channels is corrected in every call as well, nothing is clipped as long as a call has half as many on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEPS, OCTAVE = 72, 6  # thresholds, and how many of them halve t
CALL = 64  # tokens of a call, as far as rare channels are concerned
_INTEGERS = 255


@dataclass(frozen=True)
class ChannelValues:
    """What the K channels of one input held: n rows, ends, squares, and per threshold the sums above it.

    `sums[i, j]`: the sum of |x|^i over the values with |x| from threshold j up to the next larger, [3, STEPS, K].
    """

    count: int
    low: float
    high: float
    sums: np.ndarray
    squares: np.ndarray  # sum of x^2, [K]
    calls: int = 1  # of CALL tokens
    largest: np.ndarray | None = None  # calls whose largest |x| lies from threshold j up to the next larger, [STEPS, K]

    @property
    def thresholds(self) -> np.ndarray:
        """Largest first, [STEPS]."""
        return thresholds(max(-self.low, self.high))

    def excess(self) -> np.ndarray:
        """Mean of (|x| - t)^2 beyond each threshold, [STEPS, K]."""
        zeroth, first, second = np.cumsum(self.sums, axis=1)
        t = self.thresholds[:, None]
        return np.maximum(second - 2 * t * first + t * t * zeroth, 0.0) / self.count

    def calls_beyond(self) -> np.ndarray:
        """Share of the calls in which a channel lies beyond each threshold, [STEPS, K]."""
        if self.largest is None:
            raise ValueError("calls were not counted")
        return np.cumsum(self.largest, axis=0) / self.calls

    def beyond(self, index: int) -> np.ndarray:
        """How many values of each channel lie beyond threshold `index`, [K]; the first is the largest value itself."""
        return self.sums[0, : index + 1 if index else 0].sum(0)


def thresholds(largest: float) -> np.ndarray:
    """The grid below the largest |x|, descending."""
    return largest * 2.0 ** (-np.arange(STEPS) / OCTAVE)


@dataclass(frozen=True)
class ClipRange:
    """A range, its channels that are corrected beyond it, and what remains of the error.

    coverage  share of the clipping error (w_k excess_k) that the corrected channels carry; 1 where nothing is clipped
    needed    how many channels would carry the coverage that was asked for
    """

    low: float
    high: float
    hot: tuple[int, ...]
    coverage: float
    needed: int
    error: float  # of the sum of the outputs' squares
    clipped: int  # values that are clipped and not corrected


def search(seen: ChannelValues, weights: np.ndarray, most: int, coverage: float = 0.0, rare: int = 0) -> ClipRange:
    """The range of the least cost with at most `most` corrected channels; `weights` [K] are the w_k.

    `rare`: how many channels besides are corrected in each call.
    """
    excess = seen.excess() * weights  # [STEPS, K]
    mean = seen.squares / seen.count
    t = seen.thresholds
    low, high = np.maximum(min(seen.low, 0.0), -t), np.minimum(max(seen.high, 0.0), t)
    rounding = ((high - low) / _INTEGERS) ** 2 / 12
    noise = np.minimum(rounding[:, None], mean) * weights
    order = np.argsort(-excess, axis=1, kind="stable")
    ranked = np.take_along_axis(excess, order, axis=1)
    left = ranked[:, most:].sum(1)
    read = np.zeros(STEPS, bool)
    if rare:
        others = np.take_along_axis(seen.calls_beyond(), order, axis=1)[:, most:].sum(1)
        read = others <= rare / 2
        left = np.where(read, 0.0, left)
    cost = noise.sum(1) + left
    best = int(np.argmin(cost))
    whole = ranked[best].sum()
    carried = np.cumsum(ranked[best]) / whole if whole > 0 else np.ones(1)
    needed = int(np.searchsorted(carried, coverage - 1e-12)) + 1 if whole > 0 else 0
    worth = int((ranked[best] > rounding[best] * weights[order[best]]).sum())  # more than rounding costs it anyway
    count = min(most, max(needed, worth)) if whole > 0 else 0
    hot = tuple(sorted(int(k) for k in order[best, :count]))
    remaining = noise[best].sum() + (0.0 if read[best] else ranked[best, count:].sum())
    energy = float((mean * weights).sum()) or 1.0
    clipped = seen.beyond(best)
    return ClipRange(
        float(low[best]),
        float(high[best]),
        hot,
        float(carried[count - 1]) if count else 1.0 - (whole > 0),
        needed,
        float(remaining) / energy,
        int(clipped.sum() - clipped[list(hot)].sum()),
    )
