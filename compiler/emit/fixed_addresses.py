"""Start a process whose memory lies at the same addresses every time.

Some engines order things by where they lie in memory, so what they write changes with the random offsets that Linux
gives each process, and with the size of its environment, which moves the stack. `fixed_addresses` switches the offsets
off for processes started in its block; `fixed_environment` is an environment of one size and with one seed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

_ASK, _NO_RANDOM_ADDRESSES = 0xFFFFFFFF, 0x0040000  # of personality(2)
_KEPT = ("HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE")  # without which imports may fail
_SIZE = 16384  # bytes of all variables and arguments, unless they need more
# An arena for each thread: threads that share one take turns in it, and their blocks lie as the turns fell.
_SAME = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "128", "LC_ALL": "C.UTF-8"}


@contextlib.contextmanager
def fixed_addresses() -> Iterator[bool]:
    """Processes that this thread starts in the block get no random addresses; False where the system refuses that.

    Containers may refuse it (Docker's default seccomp profile does), and systems other than Linux do not have it.
    """
    personality = getattr(ctypes.CDLL(None), "personality", None) if sys.platform == "linux" else None
    if personality is None:
        yield False
        return
    personality.argtypes, personality.restype = [ctypes.c_ulong], ctypes.c_int
    before = personality(_ASK)
    fixed = before != -1 and personality(before | _NO_RANDOM_ADDRESSES) != -1
    try:
        yield fixed
    finally:
        if fixed:
            personality(before)


def fixed_environment(more: Mapping[str, str], command: Sequence[str]) -> dict[str, str]:
    """The variables for `command`: `more`, what imports need of our own, and one that fills up to a fixed size."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    made = {**kept, **_SAME, **more}
    used = sum(len(os.fsencode(f"{name}={value}")) + 1 for name, value in made.items())
    used += sum(len(os.fsencode(word)) + 1 for word in [command[0], *command])  # the kernel adds the file's name
    return {**made, "EDGEC_FILL": "." * max(0, _SIZE - used)}
