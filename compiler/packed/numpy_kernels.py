"""Packing and restoring a segment's integers by numpy: the same bytes as `pack.c` and `unpack.c` give.

Values and ranks lie low bits first. Masks are numbers whose bit u says that unit u is kept.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from ..ir.packing import pack_rows, unpack_rows
from . import numpy_nibbles
from .layout import DamagedFileError, NotInPatternError, Segment

_TABLED = 1 << 16  # masks that are looked up; above they are computed
_PIECE = 1 << 20  # integers that are unpacked at once


def pack(segment: Segment, dense: np.ndarray, zeros: np.ndarray | None = None) -> bytes:
    """The payload of `segment` for the bytes `dense` of the file; `zeros` uint8, one code for each run."""
    zero_codes = b"" if zeros is None else _packed(zeros, segment.bits)
    if numpy_nibbles.fits(segment):
        return b"".join([zero_codes, *(part.tobytes() for part in numpy_nibbles.pack(segment, dense, zeros))])
    kept, ranks = [], []
    for start in range(0, segment.groups, _step(segment)):
        stop = min(start + _step(segment), segment.groups)
        codes = _codes(segment, dense, start, stop)
        units = _units(segment, codes)
        full = _units(segment, codes != _zero_codes(segment, zeros, start, stop)).any(-1)
        counts = full.sum(-1)
        if (counts > segment.keep).any():
            raise NotInPatternError(f"a group holds {counts.max()} units, its pattern keeps {segment.keep}")
        spare = ~full & (np.cumsum(~full, -1) <= (segment.keep - counts)[:, None])
        chosen = full | spare
        kept.append(_in_order(segment, units, chosen))
        ranks.append(_rank(chosen))
    values = _packed(np.concatenate(kept), segment.bits)
    return zero_codes + values + _packed_wide(np.concatenate(ranks), segment.rank_bits)


def restore(segment: Segment, stored: np.ndarray) -> np.ndarray:
    """The bytes of the file for the payload `stored`, uint8; DamagedFileError for a rank that there is not."""
    zeros_bytes, values_bytes, _ = segment.pieces
    zeros = unpack_rows(stored[None, :zeros_bytes], segment.bits, segment.runs, "little")[0] if segment.run else None
    per_group = segment.keep * segment.unit
    values = stored[zeros_bytes : zeros_bytes + values_bytes]
    if numpy_nibbles.fits(segment):
        return numpy_nibbles.restore(segment, values, stored[zeros_bytes + values_bytes :], zeros)
    codes = unpack_rows(values[None], segment.bits, segment.groups * per_group, "little")[0]
    ranks = _unpacked_wide(stored[zeros_bytes + values_bytes :], segment.rank_bits, segment.groups)
    if (ranks >= math.comb(segment.units, segment.keep)).any():
        raise DamagedFileError("a group has a mask that there is not")
    out = []
    for start in range(0, segment.groups, _step(segment)):
        stop = min(start + _step(segment), segment.groups)
        chosen = _chosen(ranks[start:stop], segment.units, segment.keep)
        inputs = np.concatenate([chosen] * segment.unit, axis=-1)
        made = np.broadcast_to(_zero_codes(segment, zeros, start, stop), inputs.shape).copy()
        made[inputs] = codes[start * per_group : stop * per_group]
        out.append(pack_rows(made.reshape(1, -1), segment.bits, segment.order)[0])
    return np.concatenate(out)


def _step(segment: Segment) -> int:
    """Groups that are handled at once; whole bytes of integers, as every segment is of them."""
    return max(1, _PIECE // (8 * segment.group)) * 8


def _codes(segment: Segment, dense: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Integers of groups [start, stop), uint8 [groups, group]."""
    first, last = (at * segment.group * segment.bits // 8 for at in (start, stop))
    count = (stop - start) * segment.group
    return unpack_rows(dense[None, first:last], segment.bits, count, segment.order)[0].reshape(-1, segment.group)


def _units(segment: Segment, codes: np.ndarray) -> np.ndarray:
    """[groups, units, unit] of [groups, group]: the integers of a unit are group / unit apart."""
    return codes.reshape(len(codes), segment.unit, segment.units).swapaxes(1, 2)


def _in_order(segment: Segment, units: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen integers of each group in the order of the file."""
    return units.swapaxes(1, 2)[np.broadcast_to(chosen[:, None], (len(chosen), segment.unit, segment.units))]


def _zero_codes(segment: Segment, zeros: np.ndarray | None, start: int, stop: int) -> np.ndarray:
    """The code for zero at each integer of groups [start, stop): uint8, broadcast to [groups, group]."""
    if zeros is None:
        return np.full((1, 1), segment.zero, np.uint8)
    at = np.arange(start * segment.group, stop * segment.group) // segment.run
    return zeros[at].reshape(-1, segment.group)


def _rank(chosen: np.ndarray) -> np.ndarray:
    """Ranks of masks, bool [groups, units] -> uint64 [groups]: the sum of C(unit, i) over the i-th unit kept."""
    units = chosen.shape[1]
    ways = np.array([[math.comb(u, i) for i in range(units + 1)] for u in range(units)], np.uint64)
    counts = np.cumsum(chosen, -1)
    return np.where(chosen, ways[np.arange(units), counts], 0).sum(-1, dtype=np.uint64)


def _chosen(ranks: np.ndarray, units: int, keep: int) -> np.ndarray:
    """The inverse of `_rank`."""
    if math.comb(units, keep) <= _TABLED:
        return _table(units, keep)[ranks.astype(np.int64)]
    return _computed(ranks, units, keep)


@cache
def _table(units: int, keep: int) -> np.ndarray:
    return _computed(np.arange(math.comb(units, keep), dtype=np.uint64), units, keep)


def _computed(ranks: np.ndarray, units: int, keep: int) -> np.ndarray:
    rest, left = ranks.copy(), np.full(len(ranks), keep)
    made = np.zeros((len(ranks), units), bool)
    for unit in reversed(range(units)):
        ways = np.array([math.comb(unit, i) for i in range(keep + 1)], np.uint64)[left]
        taken = (left > 0) & (rest >= ways)
        made[:, unit] = taken
        rest -= np.where(taken, ways, np.uint64(0))
        left -= taken
    return made


def _packed(codes: np.ndarray, bits: int) -> bytes:
    return pack_rows(codes.reshape(1, -1).astype(np.uint8), bits, "little").tobytes()


def _packed_wide(numbers: np.ndarray, bits: int) -> bytes:
    """Numbers of up to 61 bits, low bits first."""
    spread = numbers[:, None] >> np.arange(bits, dtype=np.uint64) & np.uint64(1)
    return np.packbits(spread.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def _unpacked_wide(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    spread = np.unpackbits(data, bitorder="little")[: count * bits].reshape(count, bits).astype(np.uint64)
    return (spread << np.arange(bits, dtype=np.uint64)).sum(-1, dtype=np.uint64)
