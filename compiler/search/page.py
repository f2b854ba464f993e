"""The page of a sweep: its points by size, rate or memory and quality, with the Pareto front; the table below.

Plain HTML and inline SVG, no script, nothing from outside; what a colour says, a mark and a word say too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..diagnostics.wording import count
from ..report.html import style_sheet
from ..report.markup import code, escape, prose, section, table
from .front import front
from .point import Figures, Point
from .table import columns

if TYPE_CHECKING:
    from .sweep import Sweep

_WIDE, _HIGH, _LEFT, _TOP, _BOTTOM, _RIGHT = 620, 320, 74, 16, 46, 24
_LETTER = 6.2  # pixels of a letter of a label, about
Box = tuple[float, float, float, float]  # left, top, right, bottom
Axis = tuple[str, Callable[[Figures], float | None]]
_SIZE: Axis = ("bundle, MB", lambda facts: None if facts.size is None else facts.size / 1e6)
_RATE: Axis = ("estimated tokens a second", lambda facts: facts.decode)
_MEMORY: Axis = ("memory on the device, MB", lambda facts: None if facts.memory is None else facts.memory / 1e6)


def page(found: Sweep) -> str:
    """The whole page."""
    points = found.points
    by_text = any(point.figures.by_text for point in points if point.figures.quality is not None)
    quality: Axis = (
        "perplexity, of the float model's" if by_text else "relative error of the weights",
        lambda facts: facts.quality,
    )
    drawn = [plot(points, across, quality, less) for across, less in ((_SIZE, True), (_RATE, False), (_MEMORY, True))]
    title = f"Sweep of {found.path.name}"
    swept = ", ".join(f"{len(values)} of {name}" for name, values in found.axes.items())
    fixed = f"; {', '.join(found.fixed)} everywhere" if found.fixed else ""
    failed = f", {len(found.failed)} failed" if found.failed else ""
    head = (
        f"<p class=eyebrow>edgec sweep</p><h1>{escape(title)}</h1>"
        f"<p class=lead>{count(len(points), 'point')} ({escape(swept)}){failed}; {len(found.front)} on the front"
        f"{escape(fixed)}</p>"
    )
    body = [
        section("The front", *((_KEY, *filter(None, drawn)) if any(drawn) else (_NOTHING,))),
        section("Every point", _rows(points), "<p class=quiet>Rates and memory are estimated for the device.</p>"),
        section("Shared work", _shared(found)),
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{style_sheet()}{_STYLE}</style>{head}\n"
        f"<main>{chr(10).join(filter(None, body))}</main></html>\n"
    )


_STYLE = """
.axis { stroke: var(--line); } .front { fill: none; stroke: var(--s1); stroke-width: 1.5; }
.best { fill: var(--s1); } .other { fill: var(--s0); fill-opacity: .55; }
.misses { fill: none; stroke: var(--bad); stroke-width: 1.5; }
figure { margin: 1rem 0; } figcaption { font-size: .92em; color: var(--quiet); }
"""
_KEY = (
    "<p><svg width=16 height=16 aria-hidden=true><path class=best d='M8 2l6 6-6 6-6-6z' /></svg> on the front: no "
    "other point is as good in size, quality, rate and memory together &ensp; "
    "<svg width=14 height=14 aria-hidden=true><circle class=other cx=7 cy=7 r=4 /></svg> another &ensp; "
    "<svg width=14 height=14 aria-hidden=true><circle class=misses cx=7 cy=7 r=4 /></svg> a <code>require</code> line "
    "does not hold</p>"
)
_NOTHING = "<p class=quiet>Nothing is drawn: no two points differ in their quality and in another figure.</p>"


def plot(points: Sequence[Point], across: Axis, up: Axis, less: bool) -> str:
    """Points by two figures, the line through those that are best in these two; empty without two figures to draw."""
    best = set(front(points))
    placed = [
        (at, x, y)
        for at, point in enumerate(points)
        if (x := across[1](point.figures)) is not None and (y := up[1](point.figures)) is not None
    ]
    if len({x for _, x, _ in placed}) < 2 or len({y for *_, y in placed}) < 2:
        return ""
    xs, ys = _Scale.of([x for _, x, _ in placed]), _Scale.of([y for *_, y in placed])

    def at_x(x: float) -> float:
        return _LEFT + xs.share(x) * _WIDE

    def at_y(y: float) -> float:
        return _TOP + (1 - ys.share(y)) * _HIGH

    drawn = [_ticks(xs, at_x, down=True), _ticks(ys, at_y, down=False)]
    holding = [(x, y) for at, x, y in placed if points[at].state == "holds"] or [(x, y) for _, x, y in placed]
    drawn.append(_stairs([(at_x(x), at_y(y)) for x, y in _best_of_two(holding, less)], less))
    labels = _Labels([(at_x(x), at_y(y)) for _, x, y in placed])
    for at, x, y in sorted(placed, key=lambda one: one[0] in best):  # the front is drawn over the others
        point, label = points[at], ""
        if at in best:
            label = labels.beside(at_x(x), at_y(y), " ".join(point.values.values()))
        said = f"{point.name}: {x:,.4g}, {y:,.4g}; {point.state}"
        drawn.append(f"<g><title>{escape(said)}</title>{_mark(point, at in best, at_x(x), at_y(y))}{label}</g>")
    foot = _TOP + _HIGH + _BOTTOM - 8
    drawn.append(f"<text x={_LEFT + _WIDE / 2} y={foot} text-anchor=middle>{escape(across[0])}</text>")
    middle = _TOP + _HIGH / 2
    turned = f"transform='rotate(-90 14 {middle})'"
    drawn.append(f"<text x=14 y={middle} text-anchor=middle {turned}>{escape(up[0])}</text>")
    width, height = _LEFT + _WIDE + _RIGHT, _TOP + _HIGH + _BOTTOM
    caption = f"Better is down, and to the {'left' if less else 'right'}."
    label = escape(f"{up[0]} by {across[0]}, {len(placed)} points")
    sized = f"width={width} height={height} viewBox='0 0 {width} {height}'"
    svg = f"<svg class=sweep {sized} role=img aria-label='{label}'>{''.join(drawn)}</svg>"
    return f"<figure><div class=scroll tabindex=0>{svg}</div><figcaption>{escape(caption)}</figcaption></figure>"


class _Labels:
    """Words beside points, where they cover neither a point nor each other; what has no room goes without."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self.taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]

    def beside(self, x: float, y: float, words: str) -> str:
        """The label of the point at (x, y); empty where there is no room."""
        wide = _LETTER * len(words)
        for down in (-4, 12, -15, 23):
            for left, at, anchor in ((x + 9, x + 9, "start"), (x - 9 - wide, x - 9, "end")):
                box = (left, y + down - 9, left + wide, y + down + 2)
                inside = left >= _LEFT and box[2] <= _LEFT + _WIDE and box[1] >= _TOP and box[3] <= _TOP + _HIGH
                if inside and not any(_overlap(box, other) for other in self.taken):
                    self.taken.append(box)
                    return f"<text x={at:.1f} y={y + down:.1f} text-anchor={anchor}>{escape(words)}</text>"
        return ""


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class _Scale:
    """A range of round numbers around values."""

    def __init__(self, low: float, high: float, step: float) -> None:
        self.low, self.high, self.step = low, high, step

    @classmethod
    def of(cls, values: Sequence[float]) -> _Scale:
        low, high = min(values), max(values)
        rough = (high - low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough)
        return cls(math.floor(low / step) * step, math.ceil(high / step) * step, step)

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def marks(self) -> list[float]:
        count = round((self.high - self.low) / self.step)
        return [self.low + self.step * number for number in range(count + 1)]


def _ticks(scale: _Scale, at: Callable[[float], float], down: bool) -> str:
    drawn = []
    for mark in scale.marks():
        text, place = f"{mark:,.6g}", at(mark)
        if down:
            line = f"x1={place:.1f} x2={place:.1f} y1={_TOP} y2={_TOP + _HIGH}"
            words = f"x={place:.1f} y={_TOP + _HIGH + 16} text-anchor=middle"
        else:
            line = f"x1={_LEFT} x2={_LEFT + _WIDE} y1={place:.1f} y2={place:.1f}"
            words = f"x={_LEFT - 8} y={place + 4:.1f} text-anchor=end"
        drawn.append(f"<line class=axis {line} /><text class=on {words}>{text}</text>")
    return "".join(drawn)


def _best_of_two(placed: Sequence[tuple[float, float]], less: bool) -> list[tuple[float, float]]:
    """Those that no other beats in both figures, from the best across to the best down."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(placed, key=lambda one: (one[0] if less else -one[0], one[1])):
        if not kept or y < kept[-1][1]:
            kept.append((x, y))
    return kept


def _stairs(corners: Sequence[tuple[float, float]], less: bool) -> str:
    """The border of what the front reaches, as steps."""
    if len(corners) < 2:
        return ""
    path = [f"M{corners[0][0]:.1f} {corners[0][1]:.1f}"]
    path += [f"H{x:.1f} V{y:.1f}" for x, y in corners[1:]]
    return f"<path class=front d='{' '.join(path)}' />"


def _mark(point: Point, best: bool, x: float, y: float) -> str:
    if best:
        return f"<path class=best d='M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z' />"
    kind = "misses" if point.missed else "other"
    return f"<circle class={kind} cx={x:.1f} cy={y:.1f} r=4 />"


def _rows(points: Sequence[Point]) -> str:
    best, figures = set(front(points)), columns(points)
    names = list(points[0].values) if points else []
    rows = []
    for at, point in enumerate(points):
        cells = [escape(cell(point.figures)) for _, cell in figures]
        why = point.error.message if point.error is not None else "; ".join(point.missed)
        state = "on the front" if at in best else point.state
        told = f"<span class={'bad' if why else 'good' if at in best else 'quiet'}>{escape(state)}</span>"
        values = [code(value) for value in point.values.values()]
        rows.append([*values, *cells, told, prose(why)])
    head = [*(escape(name) for name in names), *(head for head, _ in figures), "", ""]
    numbers = range(len(names), len(names) + len(figures))
    return table("every point", head, rows, numbers=list(numbers), wraps=len(head) - 1)


def _shared(found: Sweep) -> str:
    rows = [[code(kind), str(hits), str(made)] for kind, (hits, made) in found.shared.items()]
    return table("entries of the cache", ["kind of work", "taken from the cache", "made"], rows, numbers=[1, 2])
