"""What a model needs in memory on the device: mapped weights, K/V cache, an arena for each part.

arena of a part  = the largest over its buckets: one bucket runs at a time
peak             = weights + K/V held + all arenas         parts stay open beside each other
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..emit.part import Part
from .arena import ALIGNMENT, Arena, plan_arena
from .lifetimes import lifetimes

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ir.decoder_arch import DecoderArch

_FLOAT_BYTES = {"cpu": 4, "npu": 2}  # of a value between ops


@dataclass(frozen=True)
class MemoryPlan:
    """Arenas by part and bucket; a part whose shapes are not static has none."""

    arenas: Mapping[str, Mapping[str, Arena]]

    def activations(self) -> dict[str, int]:
        """Bucket -> bytes of its parts' arenas."""
        found: dict[str, int] = {}
        for buckets in self.arenas.values():
            for bucket, arena in buckets.items():
                found[bucket] = found.get(bucket, 0) + arena.size
        return found

    def held(self) -> int:
        """Bytes of every part's largest arena."""
        return sum(max((one.size for one in buckets.values()), default=0) for buckets in self.arenas.values())

    def offsets(self) -> dict[str, object]:
        """The content of `memory_plan.json`: of each part and bucket the buffers at their offsets."""
        parts = {
            part: {
                bucket: {
                    "bytes": arena.size,
                    "peak": arena.peak,
                    "buffers": [
                        [one.buffer.name, one.offset, one.buffer.size, one.buffer.first, one.buffer.last]
                        for one in arena.placed
                    ],
                }
                for bucket, arena in buckets.items()
            }
            for part, buckets in self.arenas.items()
        }
        return {"alignment": ALIGNMENT, "columns": ["name", "offset", "bytes", "first", "last"], "parts": parts}


def plan_memory(
    parts: Sequence[Part], workspace: Callable[[Part, ir.Node], int] = lambda _part, _node: 0
) -> MemoryPlan:
    """Arenas of all parts with static shapes, in the types their devices compute in; `workspace`: inside an op."""
    arenas: dict[str, dict[str, Arena]] = {}
    for part in parts:
        for bucket, model in part.graphs.items():
            try:
                buffers = lifetimes(model.graph, _FLOAT_BYTES[part.device], functools.partial(workspace, part))
            except ValueError:  # an engine that takes any shape plans for itself
                continue
            arenas.setdefault(part.name, {})[bucket] = plan_arena(buffers)
    return MemoryPlan(arenas)


def kv_bytes(arch: DecoderArch, positions: int, width: float) -> int:
    """Bytes of keys and values of all layers at so many positions, each value of `width` bytes."""
    return round(2 * arch.layers * arch.kv_heads * arch.head_dim * positions * width)


def kv_held(arch: DecoderArch, context: int, capacities: Sequence[int], width: float) -> int:
    """Bytes the runner holds: every position once, and the copy in the shape that the bucket in use reads."""
    return kv_bytes(arch, context, width) + kv_bytes(arch, max(capacities, default=0), width)


def memory_entry(
    planned: MemoryPlan,
    weights: int,
    arch: DecoderArch | None,
    context: int,
    buckets: Sequence[tuple[str, int | None, int | None]],
    width: float,
) -> dict[str, Any]:
    """A model's entry in the manifest. `buckets`: (name, tokens, context), None where any number is taken.

    `width`: bytes of a value of the cache. A graph without buckets keeps its engine's one cache of `context` positions.
    """
    arenas = {part: {name: arena.size for name, arena in own.items()} for part, own in planned.arenas.items()}
    entry: dict[str, Any] = {"weights": weights, "kv": {}, "activations": planned.activations(), "arenas": arenas}
    held = 0
    if arch is not None:
        entry["kv"] = {name: kv_bytes(arch, positions or context, width) for name, _, positions in buckets}
        pasts = [positions - tokens for _, tokens, positions in buckets if tokens and positions]
        held = kv_held(arch, max((c for *_, c in buckets if c), default=context), pasts, width)
        entry["kv_held"] = held
    return entry | {"peak": weights + held + planned.held()}
