"""A content-addressed cache for what can be made again: `EDGEC_CACHE`, by default the user's cache folder.

An entry is a folder named by its key; it appears whole or not at all (made beside, then renamed).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_root() -> Path:
    """Where entries lie: `$EDGEC_CACHE`, else `$XDG_CACHE_HOME/edgec`, else `~/.cache/edgec`."""
    if root := os.environ.get("EDGEC_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgec"


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
