"""Two bandwidths of an NPU, fitted on published rates.

    seconds = slowness[chip] * (bytes of weights * a + bytes of K/V * b)        a, b seconds a byte, of the first chip

`a`, `b` and the slowness of each chip have the least sum of absolute relative errors (as weighted least squares,
repeated), so one model that a vendor tuned does not pull the rest. Attention multiplies few rows by a cache that is
read once: a byte of K/V costs several of weights, which one bandwidth for everything cannot show (49 % off at worst).

What is left belongs to shapes: a model of nearly the same shape errs the same way on another chip. A prediction is
moved by the mean residual of its neighbours, each weighed by its distance in shape, held back where there are few.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from .published import Rate, npu_rates

_ROUNDS = 12
_FLOOR = 0.02  # a relative error below this counts as this
_NEAR = 0.3  # distance of shapes (root of summed squares of logarithms) at which a neighbour's say is at 0.6
_HELD = 0.3  # weight of "no residual" beside the neighbours'


@dataclass(frozen=True)
class NpuFit:
    """Seconds a byte of weights and of K/V on the first chip, each chip's slowness, and what was fitted."""

    weights: float
    cache: float
    slowness: Mapping[str, float]
    rates: tuple[Rate, ...]

    def seconds(self, chip: str, weights: float, cache: float) -> float:
        """Seconds that a chip in the table needs to read these bytes."""
        return self.slowness[chip] * (weights * self.weights + cache * self.cache)

    def residual(self, shape: Sequence[int]) -> float:
        """The factor by which models of about this shape take longer than their bytes say; 1 for a shape of its own."""
        near = [(math.exp(-(_distance(shape, one.shape) ** 2) / (2 * _NEAR**2)), one) for one in self.rates]
        moved = sum(weight * math.log(one.seconds / self._of(one)) for weight, one in near)
        return math.exp(moved / (sum(weight for weight, _ in near) + _HELD))

    def _of(self, rate: Rate) -> float:
        return self.seconds(rate.chip, *_bytes(rate))


@functools.cache
def npu_fit() -> NpuFit:
    """The fit on all published rates."""
    return fit(npu_rates())


def fit(rates: Sequence[Rate]) -> NpuFit:
    """Fit on `rates`; every chip among them gets its slowness, the first one 1."""
    first = rates[0].chip
    slowness = {rate.chip: 1.0 for rate in rates}
    weights = cache = 0.0
    for _ in range(_ROUNDS):
        rows = [tuple(slowness[one.chip] * part / one.seconds for part in _bytes(one)) for one in rates]
        weights, cache = _least_deviations(rows)
        for chip in slowness.keys() - {first}:
            own = [one for one in rates if one.chip == chip]
            slowness[chip] = median(
                one.seconds / (w * weights + c * cache) for one, (w, c) in zip(own, map(_bytes, own), strict=True)
            )
    return NpuFit(weights, cache, slowness, tuple(rates))


def _least_deviations(rows: Sequence[tuple[float, ...]]) -> tuple[float, float]:
    """a, b >= 0 with the least sum of |x a + y b - 1| over the rows (x, y)."""
    said = [1.0] * len(rows)
    a = b = 0.0
    for _ in range(_ROUNDS):
        a, b = _least_squares(rows, said)
        said = [max(abs(x * a + y * b - 1), _FLOOR) ** -1.0 for x, y in rows]
    return a, b


def _least_squares(rows: Sequence[tuple[float, ...]], said: Sequence[float]) -> tuple[float, float]:
    xx, xy, yy, x1, y1 = (
        sum(w * f(x, y) for w, (x, y) in zip(said, rows, strict=True))
        for f in (lambda x, y: x * x, lambda x, y: x * y, lambda x, y: y * y, lambda x, y: x, lambda x, y: y)
    )
    determinant = xx * yy - xy * xy
    if determinant > 1e-12 * xx * yy:
        a, b = (x1 * yy - y1 * xy) / determinant, (y1 * xx - x1 * xy) / determinant
        if a >= 0 and b >= 0:
            return a, b
    return max(((x1 / xx, 0.0), (0.0, y1 / yy)), key=lambda one: x1 * one[0] + y1 * one[1])


def _bytes(rate: Rate) -> tuple[float, float]:
    part = rate.work.parts[0]
    return part.weights, part.cache(rate.work.context)


def _distance(one: Sequence[int], other: Sequence[int]) -> float:
    """Between layers, hidden size, K/V width, intermediate size and vocabulary, as logarithms."""
    return math.sqrt(sum(math.log(a / b) ** 2 for at, (a, b) in enumerate(zip(one, other, strict=True)) if at != 2))
