"""The report's drawings, as inline SVG: bars in a table's cells, and one cell per layer and kind of linear."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

_LAYER = re.compile(r"^(?:.*\.)?layers\.(\d+)\.(.+)$")
_CELL, _LEFT, _TOP = 20, 130, 4


def bar(value: float, full: float, text: str, label: str, track: bool = True) -> str:
    """A bar of `value` on a track of `full`, its figure behind it; without a track only the bar shows."""
    width = min(value / full, 1.0) * 110 if full else 0.0
    rest = "<rect class=rest width=110 height=8 y=4 rx=2 />" if track else ""
    return (
        f"<svg width=172 height=16 role=img aria-label='{html.escape(label)}'>{rest}"
        f"<rect class=bar width={width:.1f} height=8 y=4 rx=2 /><text x=116 y=12>{html.escape(text)}</text></svg>"
    )


def stack(shares: Sequence[tuple[str, float]], width: int = 560) -> str:
    """One bar cut into shares, with a key below it."""
    total = sum(value for _, value in shares)
    if not total:
        return ""
    cuts, x = [], 0.0
    for index, (name, value) in enumerate(shares):
        wide = width * value / total
        title = f"<title>{html.escape(name)}: {100 * value / total:.1f} %</title>"
        cuts.append(f"<rect class=s{index % 6} x={x:.1f} width={max(wide - 1, 0.5):.1f} height=14 rx=2>{title}</rect>")
        x += wide
    key = "".join(
        f"<span class=key><svg width=10 height=10><rect class=s{index % 6} width=10 height=10 rx=2 /></svg> "
        f"{html.escape(name)} <span class=quiet>{100 * value / total:.0f} %</span></span>"
        for index, (name, value) in enumerate(shares)
    )
    return f"<svg class=wide viewBox='0 0 {width} 14' role=img aria-label='shares'>{''.join(cuts)}</svg><p>{key}</p>"


def by_layer(values: Mapping[str, float], unit: str) -> str:
    """A grid, layers across and kinds of linear down, darker where the value is larger; empty for other models."""
    cells: dict[str, dict[int, float]] = {}
    for name, value in values.items():
        if match := _LAYER.match(name):
            cells.setdefault(match[2], {})[int(match[1])] = value
    layers = sorted({layer for row in cells.values() for layer in row})
    if len(layers) < 2:
        return ""
    shown = [value for row in cells.values() for value in row.values()]
    low, high = min(shown), max(shown)
    drawn = []
    for y, (kind, row) in enumerate(cells.items()):
        top = _TOP + y * _CELL
        drawn.append(f"<text x={_LEFT - 8} y={top + 13} text-anchor=end>{html.escape(kind)}</text>")
        for x, layer in enumerate(layers):
            if layer in row:
                strength = 0.12 + 0.88 * ((row[layer] - low) / (high - low) if high > low else 0.5)
                title = f"<title>layers.{layer}.{html.escape(kind)}: {row[layer]:.4g} {unit}</title>"
                drawn.append(
                    f"<rect class=bar x={_LEFT + x * _CELL} y={top} width={_CELL - 2} height={_CELL - 2} rx=2 "
                    f"fill-opacity={strength:.2f}>{title}</rect>"
                )
    bottom = _TOP + len(cells) * _CELL
    every = max(1, len(layers) // 12)
    drawn += [
        f"<text x={_LEFT + x * _CELL + 9} y={bottom + 12} text-anchor=middle>{layer}</text>"
        for x, layer in enumerate(layers)
        if x % every == 0
    ]
    width, height = _LEFT + len(layers) * _CELL + 8, bottom + 18
    legend = f"<p class=quiet>from {low:.4g} (faint) to {high:.4g} (strong) {unit}; layers from left to right</p>"
    return f"<svg width={width} height={height} role=img aria-label='{unit} by layer'>{''.join(drawn)}</svg>{legend}"
