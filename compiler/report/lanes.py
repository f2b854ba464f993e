"""The parts of a model as a picture: a lane for each device, a box for each part, an arrow for what goes between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .markup import escape

_MOST = 8  # parts; more of them are a table only
_WIDE, _HIGH, _GAP, _LANE = 170, 52, 96, 86
_LEFT, _TOP = 60, 26
_LONGEST = 22  # characters in a box


def picture(entry: Mapping[str, Any], parts: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first bucket's schedule; empty where there are too many parts to be told apart."""
    if not 1 <= len(names) <= _MOST:
        return ""
    buckets = entry.get("buckets") or []
    schedule = (buckets[0].get("schedule") if buckets else None) or {}
    order = list(buckets[0]["parts"]) if buckets else list(names)
    lanes: Mapping[str, Sequence[str]] = schedule.get("lanes") or _by_device(order, parts)
    row = {part: index for index, lane in enumerate(lanes.values()) for part in lane}
    boxes = {part: (_LEFT + 104 + order.index(part) * (_WIDE + _GAP), _TOP + row[part] * _LANE) for part in order}
    decoder = entry["kind"] == "decoder"
    ends = ("token ids", "logits") if decoder else ("inputs", "outputs")
    drawn = [_lane(name, index, len(order)) for index, name in enumerate(lanes)]
    drawn += [_box(part, parts[part], boxes[part], _tokens(parts[part])) for part in order]
    drawn += [_edge(edge, boxes) for edge in _joined(schedule.get("edges") or [])]
    first, last = boxes[order[0]], boxes[order[-1]]
    drawn.append(_arrow(first[0] - 78, first[1] + 26, first[0] - 4, first[1] + 26, ends[0]))
    drawn.append(_arrow(last[0] + _WIDE, last[1] + 26, last[0] + _WIDE + 70, last[1] + 26, ends[1]))
    width, height = _LEFT + 104 + len(order) * (_WIDE + _GAP) + 10, _TOP + len(lanes) * _LANE
    said = "; ".join(f"{name}: {', '.join(lane)}" for name, lane in lanes.items())
    head = (
        "<defs><marker id=tip viewBox='0 0 8 8' refX=7 refY=4 markerWidth=7 markerHeight=7 orient=auto>"
        "<path class=tip d='M0 0L8 4L0 8z' /></marker></defs>"
    )
    sized = f"width={width} height={height} viewBox='0 0 {width} {height}'"
    svg = f"<svg class=lanes {sized} role=img aria-label='{escape(said)}'>"
    return f"<div class=scroll tabindex=0>{svg}{head}{''.join(drawn)}</svg></div>"


def _by_device(order: Sequence[str], parts: Mapping[str, Any]) -> dict[str, list[str]]:
    lanes: dict[str, list[str]] = {}
    for part in order:
        lanes.setdefault(parts[part]["device"], []).append(part)
    return lanes


def _joined(edges: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One arrow for all that goes from one part to another."""
    found: dict[tuple[str, str], list[str]] = {}
    for edge in edges:
        found.setdefault((edge["from"], edge["to"]), []).append(edge["tensor"])
    return [
        {"from": one, "to": other, "tensor": names[0] if len(names) == 1 else f"{len(names)} tensors"}
        for (one, other), names in found.items()
    ]


def _lane(name: str, index: int, count: int) -> str:
    y, width = _TOP + index * _LANE - 12, 104 + count * (_WIDE + _GAP)
    band = f"<rect class=lane x={_LEFT} y={y} width={width} height={_HIGH + 24} rx=8 />"
    return f"{band}<text class=strong x={_LEFT - 10} y={y + 42} text-anchor=end>{escape(name.upper())}</text>"


def _tokens(part: Mapping[str, Any]) -> str:
    graphs = len(part["graphs"])
    return f"{part['target']}, {graphs} graph{'s' * (graphs > 1)}"


def _box(name: str, part: Mapping[str, Any], at: tuple[int, int], below: str) -> str:
    x, y = at
    kind = "npu" if part["device"] == "npu" else "cpu"
    return (
        f"<g><title>{escape(name)}: {escape(part['file'])}</title>"
        f"<rect class='box {kind}' x={x} y={y} width={_WIDE} height={_HIGH} rx=6 />"
        f"<text class=strong x={x + _WIDE // 2} y={y + 22} text-anchor=middle>{escape(_short(name))}</text>"
        f"<text x={x + _WIDE // 2} y={y + 39} text-anchor=middle>{escape(_short(below))}</text></g>"
    )


def _edge(edge: Mapping[str, Any], boxes: Mapping[str, tuple[int, int]]) -> str:
    (x1, y1), (x2, y2) = boxes[edge["from"]], boxes[edge["to"]]
    return _arrow(x1 + _WIDE, y1 + 26, x2 - 4, y2 + 26, edge["tensor"])


def _arrow(x1: int, y1: int, x2: int, y2: int, text: str) -> str:
    middle = (x1 + x2) // 2
    path = f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"
    place = f"x={middle} y={(y1 + y2) // 2 - 7} text-anchor=middle"
    drawn = f"<path class=arrow d='{path}' marker-end='url(#tip)' />"
    return f"{drawn}<text class=on {place}>{escape(_short(text, 14))}</text>"


def _short(text: str, most: int = _LONGEST) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2) + 1 :]}"
