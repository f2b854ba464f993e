"""What the cache holds, whether it is whole, and what of it can go.

Only what is named like an entry or a note is looked at, and only that is removed: a folder of somebody's inside the
cache is neither.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..diagnostics.diagnostic import EngineError, fail
from . import cache, seal

_KEY = re.compile(r"[0-9a-f]{64}(-[0-9]+)?(\.note)?")


@dataclass(frozen=True)
class Held:
    """One entry or note: where it lies, its size in bytes, and when it was used last (seconds since 1970)."""

    kind: str
    key: str
    path: Path
    bytes: int
    used: float

    @property
    def damage(self) -> str | None:
        """What of it does not fit its digests, in words; None if all does. Reads all of it."""
        try:
            name = f"{self.kind}/{self.key}"
            if self.path.suffix == cache.NOTE:
                return None if cache.opened_note(self.path, name) is not None else "it is not whole"
            return seal.damage(self.path, name) if self.path.is_dir() else "it has no seal"
        except OSError as error:
            return f"it cannot be read: {(error.strerror or str(error)).lower()}"


def contents() -> list[Held]:
    """Every entry and note, those used longest ago first."""
    return sorted(_contents(), key=lambda held: (held.used, held.kind, held.key))


def _contents() -> Iterator[Held]:
    for path in cache.cache_root().glob("[!.]*/[0-9a-f][0-9a-f]/*"):
        if _KEY.fullmatch(path.name) and path.name.startswith(path.parent.name):
            with suppress(OSError):  # another process may have removed it just now
                kind, key = path.parts[-3], path.name.removesuffix(cache.NOTE)
                yield Held(kind, key, path, _size(path), path.stat().st_mtime)


def remove_damaged() -> list[tuple[Held, str]]:
    """Remove each entry and note that does not fit its digests; which they were, and what was wrong."""
    found = [(held, wrong) for held in contents() if (wrong := held.damage) is not None]
    for held, _ in found:
        _remove(held)
    return found


def prune(older: float | None = None, max_bytes: int | None = None) -> list[Held]:
    """Remove what was not used for `older` seconds, and then the longest unused until `max_bytes` are left.

    E0956 while another process has entries in use: it reads their files when it needs them.
    """
    with _alone():
        held, gone = contents(), []
        left, now = sum(one.bytes for one in held), time.time()
        for one in held:
            late = older is not None and now - one.used > older
            if late or (max_bytes is not None and left > max_bytes):
                _remove(one)
                gone.append(one)
                left -= one.bytes
    return gone


@contextmanager
def _alone() -> Iterator[None]:
    descriptor = cache.hold_root()
    try:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = f"another edgec is at work with the cache `{cache.cache_root()}`"
        fail("E0956", message, help="wait until it has ended", kind=EngineError)
    try:
        yield
    finally:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(os.lstat(os.path.join(root, name)).st_size for root, _, names in os.walk(path) for name in names)


def _remove(held: Held) -> None:
    if held.path.is_dir() and not held.path.is_symlink():
        shutil.rmtree(held.path, ignore_errors=True)
    else:
        held.path.unlink(missing_ok=True)
    with suppress(OSError):
        held.path.parent.rmdir()
