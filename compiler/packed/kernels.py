"""The functions that pack and restore a segment: C where a compiler is, built at first use, numpy otherwise."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..kernels.shared_library import shared_library
from . import numpy_kernels
from .layout import DamagedFileError, NotInPatternError, Segment

SOURCE = Path(__file__).with_name("unpack.c")
_SOURCES = (SOURCE.with_name("pack.c"), SOURCE)
_KIND = "packing"


class Kernels(NamedTuple):
    """`pack` gives the payload for a segment's bytes and its codes for zero (None: all have one), `restore` the
    bytes for a payload; both take uint8. `native`: they are C.
    """

    pack: Callable[[Segment, np.ndarray, np.ndarray | None], bytes]
    restore: Callable[[Segment, np.ndarray], np.ndarray]
    native: bool


IN_NUMPY = Kernels(numpy_kernels.pack, numpy_kernels.restore, False)


@functools.cache
def kernels() -> Kernels:
    """The fastest this machine has; without a compiler that works, those in numpy."""
    library = shared_library(_KIND, _SOURCES)
    return IN_NUMPY if library is None else _native(library)


def _native(library: ctypes.CDLL) -> Kernels:
    data = ctypes.c_void_p
    library.edgec_restore.argtypes = (ctypes.c_char_p, data, ctypes.c_uint64, data)
    library.edgec_pack.argtypes = (ctypes.c_char_p, data, data, data)

    def pack(segment: Segment, dense: np.ndarray, zeros: np.ndarray | None = None) -> bytes:
        _check(dense, segment.dense)
        if zeros is not None:
            _check(zeros, segment.runs)
        made = np.empty(segment.stored, np.uint8)
        codes = None if zeros is None else zeros.ctypes.data
        if library.edgec_pack(segment.row(), dense.ctypes.data, codes, made.ctypes.data):
            raise NotInPatternError("a group holds more units than its pattern keeps")
        return made.tobytes()

    def restore(segment: Segment, stored: np.ndarray) -> np.ndarray:
        _check(stored, segment.stored)
        made = np.empty(segment.dense, np.uint8)
        if library.edgec_restore(segment.row(), stored.ctypes.data, len(stored), made.ctypes.data):
            raise DamagedFileError("a group has a mask that there is not")
        return made

    return Kernels(pack, restore, True)


def _check(array: np.ndarray, size: int) -> None:
    """What is handed to C by its address has to be whole and in one piece."""
    if array.dtype != np.uint8 or array.shape != (size,) or not array.flags.c_contiguous:
        raise ValueError(f"{array.dtype} of shape {array.shape} in the place of {size} bytes")
