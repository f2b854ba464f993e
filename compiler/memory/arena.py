"""Offsets for buffers in one arena, so that those that are needed at the same time do not overlap.

Larger buffers are placed first, each at the lowest aligned offset that is free for all of its lifetime (greedy by size,
as TensorFlow Lite's arena planner does). No arena can be smaller than the peak: the most bytes needed at one time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .lifetimes import Lifetime

ALIGNMENT = 64  # bytes: a cache line, and what vector loads of every engine want


@dataclass(frozen=True)
class Placed:
    """A buffer at its offset."""

    buffer: Lifetime
    offset: int


@dataclass(frozen=True)
class Arena:
    """Buffers placed, by offset; `size` of the whole, `peak`: what is needed at once, both in aligned bytes."""

    placed: tuple[Placed, ...]
    size: int
    peak: int


def plan_arena(buffers: Sequence[Lifetime], alignment: int = ALIGNMENT) -> Arena:
    """Place all buffers; those of no bytes are left out."""
    order = sorted((one for one in buffers if one.size), key=lambda one: (-one.size, one.first, one.name))
    placed: list[Placed] = []
    for buffer in order:
        need = _aligned(buffer.size, alignment)
        offset = 0
        for other in placed:  # ascending by offset
            if other.buffer.last < buffer.first or buffer.last < other.buffer.first:
                continue
            if offset + need <= other.offset:
                break
            offset = max(offset, other.offset + _aligned(other.buffer.size, alignment))
        placed.append(Placed(buffer, offset))
        placed.sort(key=lambda one: one.offset)
    size = max((one.offset + _aligned(one.buffer.size, alignment) for one in placed), default=0)
    return Arena(tuple(placed), size, peak_bytes(buffers, alignment))


def peak_bytes(buffers: Sequence[Lifetime], alignment: int = 1) -> int:
    """The most bytes that are needed by any one node."""
    changes: dict[int, int] = {}
    for one in buffers:
        changes[one.first] = changes.get(one.first, 0) + _aligned(one.size, alignment)
        changes[one.last + 1] = changes.get(one.last + 1, 0) - _aligned(one.size, alignment)
    held = most = 0
    for at in sorted(changes):
        held += changes[at]
        most = max(most, held)
    return most


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
