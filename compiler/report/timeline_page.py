"""When the parts of a run were computed, by the runner's clock: a row for each lane, as an HTML page of its own.

The report of a compile has no times, so that the same compile gives the same bytes; this page is of one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .markup import code, escape, section, table

_WIDE, _HIGH, _LEFT, _TOP = 1040, 40, 70, 24
_MOST = 400  # boxes; a run of more is drawn up to there


def write_timeline(path: Path, title: str, spans: Sequence[Mapping[str, Any]], lanes: Mapping[str, Any]) -> None:
    """Write the page; `spans` have lane, part, start and end in seconds, `lanes` what each took and overlapped."""
    rows = [[escape(name), f"{facts['seconds']:.3f}", f"{facts['beside']:.1%}"] for name, facts in lanes.items()]
    head = ["lane", "seconds", "of them beside another lane"]
    sums = table("what each lane took", head, rows, numbers=[1, 2])
    body = section("Lanes", sums, _drawn(spans)) + section("Parts", _parts(spans))
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{style}</style>"
        f"<h1>{escape(title)}</h1><p class=quiet>By the runner's own clock; what a part waits for is not counted.</p>"
        f"<main>{body}</main></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _drawn(spans: Sequence[Mapping[str, Any]]) -> str:
    shown = sorted(spans, key=lambda span: span["start"])[:_MOST]
    if not shown:
        return ""
    begin, end = shown[0]["start"], max(span["end"] for span in shown)
    scale = _WIDE / max(end - begin, 1e-9)
    lanes = list(dict.fromkeys(span["lane"] for span in shown))
    drawn = [_lane(name, row) for row, name in enumerate(lanes)]
    for span in shown:
        x, y = _LEFT + (span["start"] - begin) * scale, _TOP + lanes.index(span["lane"]) * (_HIGH + 12)
        width = max((span["end"] - span["start"]) * scale, 0.75)
        kind = "s1" if span["lane"] == "npu" else "s0"
        said = f"{span['part']}: {_milli(span['start'] - begin)} to {_milli(span['end'] - begin)} ms"
        box = f"<rect class={kind} x={x:.2f} y={y} width={width:.2f} height={_HIGH} />"
        drawn.append(f"<g><title>{escape(said)}</title>{box}</g>")
    height = _TOP + len(lanes) * (_HIGH + 12) + 20
    drawn += [_tick(share, (end - begin) * share, height - 4) for share in (0, 0.25, 0.5, 0.75, 1)]
    sized = f"width={_LEFT + _WIDE + 40} height={height} viewBox='0 0 {_LEFT + _WIDE + 40} {height}'"
    label = escape(f"{len(shown)} of {len(spans)} runs of parts, in {', '.join(lanes)}")
    svg = f"<svg class=lanes {sized} role=img aria-label='{label}'>{''.join(drawn)}</svg>"
    return f"<div class=scroll tabindex=0>{svg}</div>"


def _lane(name: str, row: int) -> str:
    y = _TOP + row * (_HIGH + 12)
    band = f"<rect class=lane x={_LEFT} y={y} width={_WIDE} height={_HIGH} />"
    return (
        f"{band}<text class=strong x={_LEFT - 10} y={y + _HIGH // 2 + 4} text-anchor=end>{escape(name.upper())}</text>"
    )


def _tick(share: float, seconds: float, y: int) -> str:
    return f"<text class=on x={_LEFT + share * _WIDE:.0f} y={y} text-anchor=middle>{_milli(seconds)} ms</text>"


def _milli(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _parts(spans: Sequence[Mapping[str, Any]]) -> str:
    """A row for each part: how often it ran and how long it took."""
    times: dict[tuple[str, str], list[float]] = {}
    for span in spans:
        times.setdefault((span["lane"], span["part"]), []).append(span["end"] - span["start"])
    rows = [
        [code(part), escape(lane), str(len(held)), _milli(sum(held)), _milli(sum(held) / len(held))]
        for (lane, part), held in times.items()
    ]
    return table("the parts", ["part", "lane", "runs", "ms in all", "ms each"], rows, numbers=[2, 3, 4])
