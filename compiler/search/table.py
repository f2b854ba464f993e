"""The table of a search as text: a line for each point, `*` at those of the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .front import front
from .point import Figures, Point

Column = tuple[str, Callable[[Figures], str]]


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else form.format(value / scale)


def columns(points: Sequence[Point]) -> list[Column]:
    """Heads and cells of the figures that any of the points has."""
    by_text = any(point.figures.by_text for point in points if point.figures.quality is not None)
    all_: list[Column] = [
        ("MB", lambda facts: _number(facts.size, "{:.2f}", 1e6)),
        ("perplexity" if by_text else "weight error", lambda facts: _number(facts.quality, "{:.4f}")),
        ("tok/s", lambda facts: _number(facts.decode, "{:.1f}")),
        ("memory MB", lambda facts: _number(facts.memory, "{:.1f}", 1e6)),
    ]
    return [(head, cell) for head, cell in all_ if any(cell(point.figures) for point in points)]


def lines(points: Sequence[Point]) -> Iterator[str]:
    """The table, its head first; perplexity is a multiple of the float model's, rates are estimated."""
    best = set(front(points))
    names = list(points[0].values) if points else []
    figures = columns(points)
    rows = [["", *names, *(head for head, _ in figures), ""]]
    for at, point in enumerate(points):
        cells = [cell(point.figures) for _, cell in figures]
        rows.append(["*" if at in best else "", *point.values.values(), *cells, _verdict(point)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        padded = [
            cell.rjust(width) if len(names) < column <= len(names) + len(figures) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(padded).rstrip()


def summary(point: Point) -> str:
    """A finished point in one line: its values, its figures, what became of it."""
    figures = [f"{head} {cell(point.figures)}" for head, cell in columns([point])]
    return f"{point.name}: {', '.join([*figures, _verdict(point) or point.state])}"


def _verdict(point: Point) -> str:
    if point.error is not None:
        return f"{point.state}: {point.error.message.splitlines()[0]}"
    return "; ".join(point.missed) if point.missed else "" if point.state == "holds" else point.state
