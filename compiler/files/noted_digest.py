"""sha256 of files that are read again and again, noted in the cache under their path, size, inode and times.

One that a thread of this process is reading already (`digests`) is waited for, not read a second time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path

from . import cache

_KIND = "hashed"
CLOCK_STEP = 2.0  # seconds: a file younger than this can change again without another time (FAT's step is the longest)
_SMALL = 64 << 20  # bytes that are hashed in no time
_under_way: dict[str, Future[str]] = {}
os.register_at_fork(after_in_child=_under_way.clear)  # the thread that reads is the parent's


def is_known(path: Path) -> bool:
    """Whether its sha256 takes no time to tell; OSError where it cannot be read."""
    held = path.stat()
    return held.st_size <= _SMALL or find_digest(path, held) is not None


def announce(path: Path, coming: Future[str]) -> str:
    """Have others of this process wait for the sha256 of a file; what `withdraw` takes. OSError without the file."""
    key = _key(path, path.stat())
    _under_way.setdefault(key, coming)
    return key


def withdraw(key: str) -> None:
    """Nobody waits any more."""
    _under_way.pop(key, None)


def hash_beside(path: Path) -> None:
    """Begin to hash a finished file while other work goes on; `digest_of_finished` has what comes of it."""
    coming: Future[str] = Future()

    def read() -> None:
        try:
            coming.set_result(cache.digest_file(path))
        except OSError:
            coming.cancel()  # who asks finds out

    announce(path, coming)
    threading.Thread(target=read, name="digest", daemon=True).start()


def digest_of_finished(path: Path) -> str:
    """The sha256 of a file that this process has written, which may be hashed already."""
    coming = _under_way.pop(_key(path, path.stat()), None)
    if coming is not None:
        with contextlib.suppress(CancelledError):
            return coming.result()
    return cache.digest_file(path)


def noted_digest(path: Path) -> str:
    """The file's sha256, from the cache where the same file was hashed before; OSError where it cannot be read."""
    held = path.stat()
    found = find_digest(path, held)
    if found is None and (coming := _under_way.get(_key(path, held))) is not None:
        with contextlib.suppress(CancelledError):
            return coming.result()
    if found is None:
        found = cache.digest_file(path)
        note_digest(path, held, found)
    return found


def find_digest(path: Path, held: os.stat_result) -> str | None:
    """What was noted of the file as `held` describes it."""
    return cache.read_note(_KIND, _key(path, held))


def note_digest(path: Path, held: os.stat_result, digest: str) -> None:
    """Note it for a file that was `held` before it was read, and is old enough to show a change by its times."""
    if time.time() - max(held.st_mtime, held.st_ctime) > CLOCK_STEP:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
            cache.write_note(_KIND, _key(path, held), digest)


def _key(path: Path, held: os.stat_result) -> str:
    facts = [str(path.resolve()), held.st_size, held.st_ino, held.st_dev, held.st_mtime_ns, held.st_ctime_ns]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
