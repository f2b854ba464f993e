"""sha256 of files that are read again and again, noted in the cache under their path, size, inode and times."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from . import cache

_KIND = "hashed"
CLOCK_STEP = 2.0  # seconds: a file younger than this can change again without another time (FAT's step is the longest)


def noted_digest(path: Path) -> str:
    """The file's sha256, from the cache where the same file was hashed before; OSError where it cannot be read."""
    held = path.stat()
    found = find_digest(path, held)
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
