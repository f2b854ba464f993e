"""What rounding weights in blocks takes per weight: C where a compiler is, numpy otherwise, the same to the last bit.

    largest(w, B)              max |w| of each block of B weights
    ranges(w, B)               its smallest and its largest weight
    round(w, s, z, low, high)  q = clip(round(w / s) + z, low, high), one scale and one integer z (None: 0) a block

Weights are float32 without NaN or infinity, in one piece, of whole blocks; integers come as bytes, with a sign if `low`
is below zero.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .shared_library import shared_library

SOURCE = Path(__file__).with_name("rounding.c")
# no weight is NaN or infinite, and zero has one sign: without these words a minimum is no vector instruction
_FLAGS = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only", "-fno-signed-zeros")
_KIND = "rounding"

Range = tuple[np.ndarray, np.ndarray]


class Rounding(NamedTuple):
    """The three functions, and whether they are C."""

    largest: Callable[[np.ndarray, int], np.ndarray]
    ranges: Callable[[np.ndarray, int], Range]
    round: Callable[[np.ndarray, np.ndarray, np.ndarray | None, int, int], np.ndarray]
    native: bool


def _largest(w: np.ndarray, size: int) -> np.ndarray:
    return np.maximum.reduceat(np.abs(w).reshape(-1), np.arange(0, w.size, size))  # faster than over [blocks, size]


def _ranges(w: np.ndarray, size: int) -> Range:
    flat, starts = w.reshape(-1), np.arange(0, w.size, size)
    return np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)


def _round(w: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, low: int, high: int) -> np.ndarray:
    q = w.reshape(scale.size, -1) / scale.reshape(-1, 1)
    np.rint(q, out=q)
    if zero is not None:
        q += zero.reshape(-1, 1)
    return np.clip(q, low, high, out=q).astype(_bytes(low)).reshape(w.shape)


IN_NUMPY = Rounding(_largest, _ranges, _round, native=False)


@functools.cache
def rounding() -> Rounding:
    """The fastest this machine has."""
    library = shared_library(_KIND, (SOURCE,), _FLAGS)
    return IN_NUMPY if library is None else _native(library)


def _native(library: ctypes.CDLL) -> Rounding:
    data, count, number = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_float
    library.edgec_largest.argtypes = (data, count, count, data)
    library.edgec_ranges.argtypes = (data, count, count, data, data)
    library.edgec_round.argtypes = (data, data, data, count, count, number, number, data)
    for function in (library.edgec_largest, library.edgec_ranges, library.edgec_round):
        function.restype = None

    def largest(w: np.ndarray, size: int) -> np.ndarray:
        made = np.empty(_blocks(w, size), np.float32)
        library.edgec_largest(w.ctypes.data, made.size, size, made.ctypes.data)
        return made

    def ranges(w: np.ndarray, size: int) -> Range:
        low, high = np.empty((2, _blocks(w, size)), np.float32)
        library.edgec_ranges(w.ctypes.data, low.size, size, low.ctypes.data, high.ctypes.data)
        return low, high

    def round_(w: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, low: int, high: int) -> np.ndarray:
        size, made = w.size // max(scale.size, 1), np.empty(w.shape, _bytes(low))
        per_block = [None if one is None else np.ascontiguousarray(one, np.float32) for one in (scale, zero)]
        if any(one is not None and one.size != _blocks(w, size) for one in per_block):
            raise ValueError(f"scales of shape {scale.shape} for weights of shape {w.shape}")
        places = [None if one is None else one.ctypes.data for one in per_block]
        library.edgec_round(w.ctypes.data, *places, scale.size, size, low, high, made.ctypes.data)
        return made

    return Rounding(largest, ranges, round_, native=True)


def _blocks(w: np.ndarray, size: int) -> int:
    """How many blocks there are; what is handed to C by its address has to be whole and in one piece."""
    if w.dtype != np.float32 or not w.flags.c_contiguous or size < 1 or w.size % size:
        raise ValueError(f"{w.dtype} of shape {w.shape} in the place of float32 blocks of {size}")
    return w.size // size


def _bytes(low: int) -> type[np.int8 | np.uint8]:
    return np.int8 if low < 0 else np.uint8
