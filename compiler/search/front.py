"""The Pareto front: the points that no other is at least as good as in every figure, and better in one."""

from __future__ import annotations

from collections.abc import Sequence

from .point import Point


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points of the front, among those that have a bundle and meet every `require` line.

    Where none meets them, among all that have a bundle.
    """
    made = [at for at, point in enumerate(points) if point.state in ("holds", "does not hold") and _known(point)]
    kept = [at for at in made if points[at].state == "holds"] or made
    return [at for at in kept if not any(_beats(points[other], points[at]) for other in kept if other != at)]


def _known(point: Point) -> bool:
    return point.figures.size is not None


def _beats(one: Point, other: Point) -> bool:
    mine, theirs = _costs(one), _costs(other)
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _costs(point: Point) -> list[float | None]:
    """The figures, each the less the better."""
    facts = point.figures
    return [facts.size, facts.quality, None if facts.decode is None else -facts.decode, facts.memory]
