"""Start a process whose memory lies at the same addresses every time, and whose threads take the same turns.

Some engines order things by where they lie in memory, so what they write changes with the random offsets that Linux
gives each process, and with the size of its environment, which moves the stack. `fixed_addresses` switches the offsets
off for processes started in its block; `fixed_environment` is an environment of one size and with one seed.

They also start as many threads as there are cores, and on a busy machine threads take memory in another order. So
`one_core` gives a process one core: which of them makes no difference, that there is one does.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_ASK, _NO_RANDOM_ADDRESSES = 0xFFFFFFFF, 0x0040000  # of personality(2)
_KEPT = ("HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE")  # without which imports may fail
_PATH = 200  # bytes of a scratch folder's path
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


@contextlib.contextmanager
def one_core() -> Iterator[int | None]:
    """Processes that this thread starts in the block have one core, which no other of edgec's has if one is left.

    The descriptor of a lock that keeps it as long as it is open; None where the system has no such thing, or all cores
    are taken.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    core, lock = _free_core(sorted(before))
    policy, order = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setaffinity(0, {core})
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # a thread that wakes up waits for its turn
    try:
        yield lock
    finally:
        os.sched_setaffinity(0, before)
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, policy, order)


def _free_core(cores: Sequence[int]) -> tuple[int, int | None]:
    """A core whose lock nobody holds, with the lock's descriptor; else any."""
    for core in cores:
        path = _locks() / f"edgec-core-{os.getuid()}-{core}.lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        return core, lock
    return random.choice(cores), None


def _locks() -> Path:
    """One folder for every edgec of the machine, whatever its TMPDIR is: two on one core take each other's turns."""
    shared = Path("/tmp")
    return shared if shared.is_dir() else Path(tempfile.gettempdir())


def of_one_length(folder: Path) -> Path:
    """A folder below `folder` whose path is as long whatever TMPDIR is: what an engine allocates for a path moves the
    rest of its memory. Of a path that is longer already, one that is one character longer."""
    missing = max(1, _PATH - len(os.fsencode(folder)) - 1)
    return folder / ("w" * min(missing, 255))


def fixed_environment(more: Mapping[str, str], command: Sequence[str]) -> dict[str, str]:
    """The variables for `command`: `more`, what imports need of our own, and one that fills up to a fixed size."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    made = {**kept, **_SAME, **more}
    used = sum(len(os.fsencode(f"{name}={value}")) + 1 for name, value in made.items())
    used += sum(len(os.fsencode(word)) + 1 for word in [command[0], *command])  # the kernel adds the file's name
    return {**made, "EDGEC_FILL": "." * max(0, _SIZE - used)}
