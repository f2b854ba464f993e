"""Four-bit integers of which two of four are kept, by tables: the form that most files have, and numpy's fastest way.

two bytes of the file, codes for zero taken off   ->   the two kept integers, and the rank of their mask at bit 8
rank and the two kept integers                    ->   two bytes of the file
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .layout import DamagedFileError, NotInPatternError, Order, Segment

_MASKS = (3, 5, 6, 9, 10, 12)  # two of four, in the order of their numbers
_TOO_MANY = 0x8000


def fits(segment: Segment) -> bool:
    """Whether the segment has this form, and no group reaches into two runs."""
    whole = segment.run % segment.group == 0
    return segment.bits == 4 and segment.unit == 1 and segment.group == 4 and segment.keep == 2 and whole


def pack(segment: Segment, dense: np.ndarray, zeros: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Kept integers and ranks, both as bytes of the payload."""
    patterns = _patterns(segment, zeros)
    found = _packing(segment.order)[_words(dense, segment) ^ patterns].reshape(-1)
    if (found & _TOO_MANY).any():
        raise NotInPatternError("a group holds more than two units, its pattern keeps 2")
    values = (found.reshape(-1, patterns.shape[1] if zeros is None else segment.run // 4) ^ patterns).astype(np.uint8)
    return values.reshape(-1), _packed_ranks((found >> 8 & 7).astype(np.uint32))


def restore(segment: Segment, values: np.ndarray, ranks: np.ndarray, zeros: np.ndarray | None) -> np.ndarray:
    """The bytes of the file."""
    numbers = _unpacked_ranks(ranks, segment.groups)
    if (numbers > 5).any():
        raise DamagedFileError("a group has a mask that there is not")
    made, holes = _restoring(segment.order)
    patterns = _patterns(segment, zeros)
    rows = (len(patterns), -1)
    words = made[numbers << 8 | values].reshape(rows) | holes[numbers].reshape(rows) & patterns
    return words.astype("<u2").reshape(-1).view(np.uint8)


def _words(dense: np.ndarray, segment: Segment) -> np.ndarray:
    words = np.ascontiguousarray(dense).view("<u2")
    return words.reshape(-1, segment.run // 4) if segment.run else words[None]


def _patterns(segment: Segment, zeros: np.ndarray | None) -> np.ndarray:
    """Four codes for zero, of each run in a row: uint16 [runs, 1]."""
    codes = np.array([segment.zero], np.uint16) if zeros is None else zeros.astype(np.uint16)
    return (codes * np.uint16(0x1111))[:, None]


@cache
def _packing(order: Order) -> np.ndarray:
    words = np.arange(1 << 16)
    codes = np.stack([words >> 4 * _place(k, order) & 15 for k in range(4)], -1)
    full = codes != 0
    spare = ~full & (np.cumsum(~full, -1) <= (2 - full.sum(-1))[:, None])
    kept = full | spare
    made = np.full(1 << 16, _TOO_MANY, np.uint16)
    for rank, mask in enumerate(_MASKS):
        first, second = (k for k in range(4) if mask >> k & 1)
        these = (kept == [mask >> k & 1 for k in range(4)]).all(-1)
        made[these] = (codes[:, first] | codes[:, second] << 4 | rank << 8)[these]
    return made


@cache
def _restoring(order: Order) -> tuple[np.ndarray, np.ndarray]:
    values = np.arange(256, dtype=np.uint16)
    made, holes = np.zeros((6, 256), np.uint16), np.zeros(6, np.uint16)
    for rank, mask in enumerate(_MASKS):
        first, second = (4 * _place(k, order) for k in range(4) if mask >> k & 1)
        made[rank] = (values & 15) << first | (values >> 4) << second
        holes[rank] = sum(15 << 4 * _place(k, order) for k in range(4) if not mask >> k & 1)
    return made.reshape(-1), holes


def _place(k: int, order: Order) -> int:
    """Which nibble of a word, counted from its low bits, the integer `k` of four is."""
    return k if order == "little" else k ^ 1


def _packed_ranks(ranks: np.ndarray) -> np.ndarray:
    """Eight ranks of 3 bits in three bytes; the last byte is filled up."""
    count = len(ranks)
    eights = np.pad(ranks, (0, -count % 8)).reshape(-1, 8)
    words = sum((eights[:, i] << np.uint32(3 * i) for i in range(1, 8)), eights[:, 0])
    return words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].reshape(-1)[: (3 * count + 7) // 8]


def _unpacked_ranks(data: np.ndarray, count: int) -> np.ndarray:
    threes = np.pad(data, (0, -len(data) % 3)).reshape(-1, 3)
    words = np.zeros((len(threes), 4), np.uint8)
    words[:, :3] = threes
    eights = words.view("<u4")
    return (
        np.concatenate([eights >> np.uint32(3 * i) & 7 for i in range(8)], axis=1).reshape(-1)[:count].astype(np.uint16)
    )
