"""The report's drawings: bars as plain HTML, grids of layers as inline SVG. What a colour says, a word says too."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .markup import escape

COLOURS = 7  # classes s0 … s6 of report.css, the last one for the rest
_LAYER = re.compile(r"^(?:.*\.)?layers\.(\d+)\.(.+)$")
_CELL, _LEFT, _TOP = 20, 150, 4
_STEPS = 5  # of a drawn scale


def bar(value: float, full: float, text: str, kind: str = "") -> str:
    """A bar of `value` on a track of `full`, its figure behind it."""
    share = min(value / full, 1.0) if full else 0.0
    drawn = f"<span class='bar {kind}'><i style='--w:{100 * share:.1f}%'></i></span>"
    return f"{drawn} <span class=figure>{escape(text)}</span>"


def stack(title: str, shares: Sequence[tuple[str, float]], texts: Sequence[str] = ()) -> str:
    """One bar cut into shares, with a key below it: name, `texts` or percentage."""
    total = sum(value for _, value in shares)
    if not total:
        return ""
    cuts, keys = [], []
    for index, (name, value) in enumerate(shares):
        share, kind = 100 * value / total, f"s{min(index, COLOURS - 1)}"
        text = texts[index] if texts else f"{share:.0f} %"
        cuts.append(f"<i class={kind} style='--w:{share:.2f}%' title='{escape(name)}: {escape(text)}'></i>")
        keys.append(f"<li><i class='dot {kind}'></i>{escape(name)} <b>{escape(text)}</b></li>")
    key = f"<ul class=keys aria-label='{escape(title)}'>{''.join(keys)}</ul>"
    return f"<div class=stack aria-hidden=true>{''.join(cuts)}</div>{key}"


def by_layer(values: Mapping[str, float], unit: str) -> str:
    """A grid, layers across and kinds of linear down, stronger where the value is larger; empty for other models."""
    high = max(values.values(), default=0.0)

    def cell(value: float) -> tuple[str, str, str]:
        return "cell", f"{value:.4g} {unit}", f" fill-opacity={_strength(value, high):.2f}"

    drawn = _grid(values, cell, f"{unit} by layer, from 0 to {high:.4g}")
    steps = [high * step / (_STEPS - 1) for step in range(_STEPS)]
    size = "width=18 height=12"
    swatches = "".join(
        f"<svg {size} aria-hidden=true><rect class=cell {size} fill-opacity={_strength(value, high):.2f} /></svg>"
        for value in steps
    )
    return drawn and f"{drawn}<p class=scale>0 {swatches} {high:.4g} {escape(unit)}</p>"


def formats_by_layer(formats: Mapping[str, str], order: Sequence[str]) -> str:
    """The same grid with a colour for each of the formats in `order`, which is the key's."""

    def cell(name: str) -> tuple[str, str, str]:
        return f"s{min(order.index(name), COLOURS - 1)}", name, ""

    return _grid(formats, cell, "format by layer")


def _strength(value: float, high: float) -> float:
    return 0.08 + 0.92 * (value / high if high else 0.0)


def _grid(values: Mapping, cell, label: str) -> str:  # type: ignore[type-arg]  # values of one type, which `cell` takes
    """Layers across, kinds down. `cell` gives class, words and further attributes of a value."""
    cells: dict[str, dict[int, object]] = {}
    for name, value in values.items():
        if match := _LAYER.match(name):
            cells.setdefault(match[2], {})[int(match[1])] = value
    layers = sorted({layer for row in cells.values() for layer in row})
    if len(layers) < 2:
        return ""
    drawn = []
    for y, (kind, row) in enumerate(cells.items()):
        top = _TOP + y * _CELL
        drawn.append(f"<text x={_LEFT - 8} y={top + 13} text-anchor=end>{escape(kind)}</text>")
        for x, layer in enumerate(layers):
            if layer in row:
                look, words, more = cell(row[layer])
                title = f"<title>layers.{layer}.{escape(kind)}: {escape(words)}</title>"
                place = f"x={_LEFT + x * _CELL} y={top} width={_CELL - 2} height={_CELL - 2} rx=2"
                drawn.append(f"<rect class={look} {place}{more}>{title}</rect>")
    bottom = _TOP + len(cells) * _CELL
    every = max(1, len(layers) // 12)
    drawn += [
        f"<text x={_LEFT + x * _CELL + 9} y={bottom + 12} text-anchor=middle>{layer}</text>"
        for x, layer in enumerate(layers)
        if x % every == 0
    ]
    drawn.append(f"<text x={_LEFT - 8} y={bottom + 12} text-anchor=end>layer</text>")
    width, height = _LEFT + len(layers) * _CELL + 8, bottom + 18
    picture = f"<svg width={width} height={height} role=img aria-label='{escape(label)}'>{''.join(drawn)}</svg>"
    return f"<div class=scroll tabindex=0>{picture}</div>"
