"""What a model needs in memory on the device: a bar of its shares, and a picture of the largest arena of each part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .markup import code, escape, size, table
from .plots import COLOURS, bar, stack

if TYPE_CHECKING:
    from ..memory.arena import Arena
    from ..memory.memory_plan import MemoryPlan

_WIDE, _HIGH = 640, 160
_SEEN = 1 / 400  # of the arena's bytes: smaller buffers would be thinner than a line


def memory_section(planned: MemoryPlan, entry: Mapping[str, Any], kv: str) -> str:
    """Shares of the peak, K/V by bucket, arenas. `entry`: of the manifest; `kv`: the cache's type in words."""
    arenas = planned.held()
    shares = [("weights, mapped", entry["weights"]), ("K/V cache", entry.get("kv_held", 0)), ("activations", arenas)]
    shown = [(name, float(count)) for name, count in shares if count]
    blocks = [
        f"<h3>Memory on the device</h3><p class=quiet>planned, {size(entry['peak'])} at once</p>",
        stack("memory at once", shown, [size(count) for _, count in shown]),
        _caches(entry, kv),
        *(_part(name, buckets) for name, buckets in planned.arenas.items()),
    ]
    return "\n".join(filter(None, blocks))


def _caches(entry: Mapping[str, Any], kv: str) -> str:
    held, activations = entry["kv"], entry.get("activations", {})
    full, most = max(held.values(), default=0), max(activations.values(), default=0)
    rows = [
        [code(name), bar(count, full, size(count)), bar(activations[name], most, size(activations[name]))]
        if name in activations
        else [code(name), bar(count, full, size(count)), ""]
        for name, count in held.items()
    ]
    return table("memory by bucket", ["bucket", f"K/V cache {escape(kv)}, at full context", "activations"], rows)


def _part(name: str, buckets: Mapping[str, Arena]) -> str:
    bucket, arena = max(buckets.items(), key=lambda one: one[1].size)
    if not arena.size:
        return ""
    said = f"{size(arena.size)} for {len(arena.placed)} buffers, {size(arena.peak)} of them needed at once"
    title = f"<h4>{code(name)} in {code(bucket)}: {said}</h4>"
    return title + _picture(arena, f"offsets in the arena of {name} from its first op to its last, {said}")


def _picture(arena: Arena, label: str) -> str:
    """Ops to the right, offsets upwards: a box for each buffer, as long as it is needed."""
    last = max(one.buffer.last for one in arena.placed) + 1
    boxes = []
    for index, one in enumerate(arena.placed):
        if one.buffer.size < _SEEN * arena.size:
            continue
        left, wide = (_WIDE * at / last for at in (one.buffer.first, one.buffer.last + 1 - one.buffer.first))
        low, high = (_HIGH * at / arena.size for at in (one.offset, one.buffer.size))
        place = f"x={left:.1f} y={_HIGH - low - high:.1f} width={wide:.1f} height={high:.1f}"
        told = f"{escape(one.buffer.name)}: {size(one.buffer.size)}"
        boxes.append(f"<rect class=s{index % COLOURS} {place} stroke=none><title>{told}</title></rect>")
    sized = f"width={_WIDE} height={_HIGH} viewBox='0 0 {_WIDE} {_HIGH}'"
    svg = f"<svg {sized} role=img aria-label='{escape(label)}'>{''.join(boxes)}</svg>"
    return f"<div class=scroll tabindex=0>{svg}</div>"
