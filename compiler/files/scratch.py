"""Scratch folders that end with their process, or with the next command after it.

    $TMPDIR/edgec-qnn-scratch-x1y2/  one folder per use; removed when its `with` block ends, however it ends
        lock                         flock, held by the process that uses the folder; says who it is
        work/                        what the caller gets

A process that is killed takes its lock with it. `sweep` removes every folder whose lock nobody holds, so a lock and not
a process number decides: numbers are used again, and mean nothing to another container that shares the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .full_disk import names_the_file
from .undisturbed import undisturbed

PREFIX = "edgec-"
_LOCK, _WORK = "lock", "work"
_OURS = re.compile(r"(edgec-[a-z-]+-scratch|\.edgec-partial)-[a-z0-9_]{8}")
_YOUNG = 60.0  # seconds: a folder this new may be about to get its lock
_ROOM = "make room there, or set `TMPDIR` to a folder on another disk"
_CACHE_ROOM = "make room there (`edgec cache prune --older 30d`), or set `EDGEC_CACHE` to a folder on another disk"
ROOM_THERE = "make room there, or give `-o` a folder on another disk"
_MAGIC = "a scratch folder of edgec\n"
_SHARED = Path("/tmp")


@dataclass(frozen=True)
class Scratch:
    """A scratch folder that this process holds: `work` is empty at first and may be renamed away."""

    folder: Path
    work: Path
    descriptor: int


_held: set[Scratch] = set()


@contextlib.contextmanager
def scratch_folder(what: str, parent: Path | None = None, final: Path | None = None) -> Iterator[Path]:
    """An empty folder for the block, in `parent` (default: the system's folder for temporary files).

    Where the disk is full, the error names its files as those of `final`, which it is to become.
    """
    help = _ROOM if parent is None else _CACHE_ROOM
    held = hold(f"{PREFIX}{what}-scratch-", parent or Path(tempfile.gettempdir()), help=help)
    try:
        with names_the_file(held.work, final or held.work, help):
            yield held.work
    finally:
        release(held)


def steady_parent(beside: Path) -> Path | None:
    """A parent for a scratch folder whose path is the same whatever TMPDIR is: `/tmp`, on the disk of `beside` alone.

    None: where that is another disk, which may have no room, or cannot be written.
    """
    with contextlib.suppress(OSError):
        if _SHARED.stat().st_dev == beside.stat().st_dev and os.access(_SHARED, os.W_OK | os.X_OK):
            return _SHARED
    return None


def sweep_temporary() -> None:
    """`sweep` where scratch folders without a parent lie, and those of `steady_parent`."""
    for parent in dict.fromkeys((Path(tempfile.gettempdir()), _SHARED)):
        sweep(parent)


def hold(prefix: str, parent: Path, owner: str = "", help: str = "") -> Scratch:
    """Make and lock a scratch folder in `parent`; `owner` is kept in its lock, for `owner_of`.

    `help` is the way out where `parent` has no room for it.
    """
    with undisturbed():
        return _hold(prefix, parent, owner, help)


def _hold(prefix: str, parent: Path, owner: str, help: str) -> Scratch:
    while True:
        with names_the_file(parent, parent, help or ROOM_THERE):
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with contextlib.suppress(FileNotFoundError):  # a sweep took the folder in the moment before it was locked
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            with contextlib.suppress(OSError):  # a file system without locks: `sweep` leaves its folders alone
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, folder / _LOCK):
                with names_the_file(folder, folder, help or ROOM_THERE):
                    os.pwrite(descriptor, f"{_MAGIC}{os.getpid()}\n{owner}".encode("utf-8", "surrogateescape"), 0)
                work = folder / _WORK
                work.mkdir(0o700)
                held = Scratch(folder, work, descriptor)
                _held.add(held)
                return held
            os.close(descriptor)


def release(held: Scratch) -> None:
    """Remove the folder, its lock last; nothing where that was done already."""
    with undisturbed():
        if held in _held:
            _held.discard(held)
            remove(held.folder)
            os.close(held.descriptor)


def release_all() -> None:
    """Remove every folder this process holds: it ends now, though threads of it are at work."""
    for held in list(_held):
        release(held)


def sweep(parent: Path, prefix: str = PREFIX) -> None:
    """Remove the scratch folders in `parent` whose process has ended; what cannot be read or removed stays."""
    for folder in abandoned(parent, prefix):
        remove(folder)


def abandoned(parent: Path, prefix: str = PREFIX, young: float = _YOUNG) -> Iterator[Path]:
    """The scratch folders of ended processes in `parent`, each locked until the next one is asked for.

    An empty one without a lock is removed if it is older than `young` seconds.
    """
    for folder in scratch_folders(parent, prefix):
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            with contextlib.suppress(OSError):  # its process ended before it had a lock: only an empty one goes
                if _OURS.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > young:
                    folder.rmdir()
            continue
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_ours(descriptor, folder):
                yield folder
        except OSError:
            continue  # in use, or on a file system without locks
        finally:
            os.close(descriptor)


def scratch_folders(parent: Path, prefix: str) -> list[Path]:
    """Folders of this user in `parent` whose names begin with `prefix`."""
    try:
        with os.scandir(parent) as entries:
            named = [entry for entry in entries if entry.name.startswith(prefix)]
        mine = [entry for entry in named if entry.is_dir(follow_symlinks=False)]
        return [Path(entry.path) for entry in mine if entry.stat(follow_symlinks=False).st_uid == os.getuid()]
    except OSError:
        return []


def owner_of(folder: Path) -> tuple[int, str] | None:
    """The process that made a scratch folder and the `owner` it gave; None if it is no scratch folder."""
    try:
        text = (folder / _LOCK).read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return None
    pid, _, owner = text.removeprefix(_MAGIC).partition("\n")
    return (int(pid), owner) if text.startswith(_MAGIC) and pid.isdecimal() else None


def work_of(folder: Path) -> Path:
    """Where a scratch folder keeps what its user puts into it."""
    return folder / _WORK


def remove(folder: Path) -> None:
    """Remove an abandoned scratch folder, its lock last; what cannot be removed stays for the next sweep."""
    shutil.rmtree(folder / _WORK, ignore_errors=True)
    for name in _names(folder):
        if name != _LOCK:
            shutil.rmtree(folder / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / _LOCK).unlink()
        folder.rmdir()


def _names(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def _is_ours(descriptor: int, folder: Path) -> bool:
    """Whether the lock says so; an empty one is edgec's too if nothing lies beside it."""
    text = os.pread(descriptor, len(_MAGIC), 0).decode("utf-8", "replace")
    return text == _MAGIC or (not text and _names(folder) == [_LOCK])


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
