"""Put one directory in the place of another in a single step of the file system.

Linux: renameat2(RENAME_EXCHANGE); macOS: renamex_np(RENAME_SWAP). Where neither works (an old kernel, some network
file systems) two renames do it: for an instant there is neither, and who is killed there leaves the old directory as
`aside`, which `bundle` puts back at its next chance.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import threading
from pathlib import Path

_RENAME_EXCHANGE = 2  # linux/fs.h; RENAME_SWAP of macOS has the same value
_AT_FDCWD = -100
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def put_in_place(new: Path, final: Path, aside: Path) -> Path | None:
    """Move `new` to `final`. Return the path of the directory it replaced, or None.

    `aside` is only used where directories cannot be exchanged.
    """
    if not final.exists():
        os.rename(new, final)
        return None
    if _exchange(new, final):
        return new
    os.rename(final, aside)
    os.rename(new, final)
    return aside


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths; False where this system or file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(a), os.fsencode(b)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        status = library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, ctypes.c_uint(_RENAME_EXCHANGE))
    elif sys.platform == "darwin":
        status = library.renamex_np(first, second, ctypes.c_uint(_RENAME_EXCHANGE))
    else:
        return False
    if status == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(a), None, str(b))


def sync(directory: Path) -> None:
    """Bring a directory's files and entries to the disk."""
    for folder, _folders, files in os.walk(directory):
        for name in files:
            sync_one(os.path.join(folder, name))
        sync_one(folder)


def begin_sync(path: Path) -> None:
    """Have a large file on its way to the disk while other work goes on; `sync` waits for it, and tells what failed."""

    def bring() -> None:
        with contextlib.suppress(OSError):
            sync_one(path)

    threading.Thread(target=bring, name="sync", daemon=True).start()


def sync_one(path: str | Path) -> None:
    """Bring one file's bytes, or one folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
