"""A content-addressed cache for what can be made again: `EDGEC_CACHE`, by default the user's cache folder.

An entry is a folder named by its key; it appears whole or not at all (made beside, then renamed).
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..diagnostics.diagnostic import fail


def cache_root() -> Path:
    """Where entries lie: `$EDGEC_CACHE`, else `$XDG_CACHE_HOME/edgec`, else `~/.cache/edgec`."""
    if root := os.environ.get("EDGEC_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgec"


def make_folder(folder: Path, help: str) -> None:
    """Make `folder` with its parents; what the system refuses, also to write there, is an error with this help."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        reason = "a file is in its way" if error.errno == errno.EEXIST else (error.strerror or str(error)).lower()
        fail("E0955", f"the folder `{folder}` cannot be written: {reason}", help=help)


def make_root() -> None:
    """Make the cache's own folder, before work is done whose result goes there."""
    make_folder(cache_root(), "set `EDGEC_CACHE` to a folder that can be written")


def entry(kind: str, key: str) -> Path:
    """The folder of one entry; it exists only if it is complete."""
    return cache_root() / kind / key[:2] / key


def make(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the entry, building it in a scratch folder first if it is not there."""
    final = entry(kind, key)
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=final.parent))
    try:
        build(scratch)
        try:
            os.rename(scratch, final)
        except OSError:
            if not final.is_dir():  # somebody else was faster is fine, anything else is not
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def digest_file(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
