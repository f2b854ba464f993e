"""When the actions of a compile ran and what memory they took: `actions.html` in the bundle, beside the report.

The report itself has no times, so that the same compile gives the same bytes, and the manifest does not list this page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .markup import code, escape, section, table

_WIDE, _HIGH, _LEFT, _TOP, _GRAPH = 1040, 18, 330, 24, 120
_MOST = 300  # actions drawn


def write_actions(
    path: Path, title: str, rows: Sequence[Mapping[str, Any]], samples: Sequence[tuple[float, int]]
) -> None:
    """Write the page. `rows`: kind, name, start and end in seconds, peak in bytes, state, why; `samples`: seconds and
    resident bytes of edgec with all that ran below it.
    """
    ran = sorted((row for row in rows if row["state"] != "cached"), key=lambda row: (row["start"], row["end"]))
    cached = [row for row in rows if row["state"] == "cached"]
    listed = [
        [
            code(row["kind"]),
            escape(row["name"]),
            escape(row["state"]),
            f"{row['end'] - row['start']:.2f}",
            f"{row['peak'] / 1e6:,.0f}" if row["peak"] else "",
            escape(row["why"]),
        ]
        for row in [*ran, *cached]
    ]
    head = ["action", "of", "state", "seconds", "MB at its peak", "why it ran"]
    body = section("Timeline", _drawn(ran, samples)) + section(
        "Actions", table("every action", head, listed, numbers=[3, 4])
    )
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    seconds = max((row["end"] for row in ran), default=0.0)
    said = f"{len(ran)} ran in {seconds:.1f} s, {len(cached)} had run before."
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{style}</style>"
        f"<h1>{escape(title)}</h1><p class=quiet>{said}</p><main>{body}</main></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _drawn(rows: Sequence[Mapping[str, Any]], samples: Sequence[tuple[float, int]]) -> str:
    shown = rows[:_MOST]
    if not shown:
        return "<p class=quiet>Nothing had to run.</p>"
    end = max([row["end"] for row in shown] + [seconds for seconds, _ in samples])
    scale = _WIDE / max(end, 1e-9)
    drawn = []
    for number, row in enumerate(shown):
        y = _TOP + number * (_HIGH + 6)
        label = f"{row['kind']} {row['name']}"
        said = f"{label}: {row['start']:.1f} to {row['end']:.1f} s, {row['peak'] / 1e6:.0f} MB, {row['state']}"
        kind = "s1" if row["kind"] == "compile" else "s0"
        width = max((row["end"] - row["start"]) * scale, 0.75)
        drawn.append(
            f"<g><title>{escape(said)}</title><text class=on x={_LEFT - 8} y={y + _HIGH - 5} text-anchor=end>"
            f"{escape(_short(label))}</text><rect class={kind} x={_LEFT + row['start'] * scale:.2f} y={y} "
            f"width={width:.2f} height={_HIGH} /></g>"
        )
    top = _TOP + len(shown) * (_HIGH + 6) + 12
    drawn.append(_memory(samples, scale, top))
    height = top + _GRAPH + 30
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = _LEFT + share * _WIDE
        drawn.append(f"<text class=on x={x:.0f} y={height - 6} text-anchor=middle>{end * share:.1f} s</text>")
    sized = f"width={_LEFT + _WIDE + 40} height={height} viewBox='0 0 {_LEFT + _WIDE + 40} {height}'"
    label = escape(f"{len(shown)} actions over {end:.1f} seconds, and the memory they took together")
    svg = f"<svg class=lanes {sized} role=img aria-label='{label}'>{''.join(drawn)}</svg>"
    return f"<div class=scroll tabindex=0>{svg}</div>"


def _memory(samples: Sequence[tuple[float, int]], scale: float, top: int) -> str:
    """Resident bytes over time, as a line under the actions."""
    most = max((held for _, held in samples), default=0)
    if not most:
        return ""
    points = " ".join(
        f"{_LEFT + seconds * scale:.1f},{top + _GRAPH - held / most * _GRAPH:.1f}" for seconds, held in samples
    )
    label = f"<text class=on x={_LEFT - 8} y={top + 12} text-anchor=end>{most / 1e9:.2f} GB at the peak</text>"
    return f"{label}<polyline fill=none stroke=currentColor points='{points}' />"


def _short(text: str) -> str:
    return text if len(text) <= 46 else text[:45] + "…"
