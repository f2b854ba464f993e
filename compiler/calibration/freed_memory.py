"""Memory that was freed goes back to the system.

glibc keeps blocks below 32 MB once such a size has been freed, scattered over a heap for each thread: a solve in which
350 MB are live had 650 MB resident.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache


def give_back() -> None:
    """Hand what no longer holds anything back to the system, where the C library can."""
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> ctypes._NamedFuncPointer | None:  # pyright: ignore[reportPrivateUsage] - the type has no other name
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
