"""What judged points say of the others: each value of each let moves the logarithm of perplexity, whatever the rest.

    log quality(point) = mean + sum over lets of effect(value)      fitted by ridge regression on the judged points

Values of a factorial grid act nearly independently (a method, a width, a block), which a handful of points shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .point import Values

_RIDGE = 0.1  # of a point: an effect that one point alone speaks for is believed by nine tenths
_LEAST = 0.01  # standard deviation that is always left, of perplexities over few windows


@dataclass(frozen=True)
class Effects:
    """A fit: `effects` by (let, value), and the standard deviation of what it does not explain."""

    mean: float
    effects: Mapping[tuple[str, str], float]
    deviation: float

    def quality(self, values: Values, deviations: float = 0.0) -> float:
        """The perplexity over baseline that the point should have, less so many standard deviations."""
        sum_ = self.mean + sum(self.effects.get(one, 0.0) for one in values.items())
        return math.exp(sum_ - deviations * self.deviation)


def fit(points: Sequence[tuple[Values, float]]) -> Effects:
    """Effects of points, one at least, with their quality."""
    import numpy as np

    columns = sorted({one for values, _ in points for one in values.items()})
    rows = np.array([[one in values.items() for one in columns] for values, _ in points], float)
    logs = np.log([quality for _, quality in points])
    mean = float(logs.mean())
    solved = np.linalg.solve(rows.T @ rows + _RIDGE * np.eye(len(columns)), rows.T @ (logs - mean))
    left = logs - mean - rows @ solved
    fitted = 1 + len(columns) - len({name for name, _ in columns})
    deviation = math.sqrt(float((left**2).sum()) / max(1, len(points) - fitted))
    return Effects(mean, dict(zip(columns, map(float, solved), strict=True)), max(_LEAST, deviation))
