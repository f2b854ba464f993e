"""A text file that a command writes for a person: whole or not at all, and never over another without being told."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from ..diagnostics.diagnostic import fail


def check_new(path: Path, force: bool = False) -> None:
    """E0982 where `path` could not be written, or holds something and `force` was not given: asked before any work."""
    folder = path.parent
    if path.is_dir():
        fail("E0982", f"`{path}` is a folder", help="give `-o` the name of a file")
    if not folder.is_dir():
        fail("E0982", f"there is no folder `{folder}` to write `{path.name}` in", help=f"make it: `mkdir -p {folder}`")
    if not os.access(folder, os.W_OK | os.X_OK):
        fail("E0982", f"the folder `{folder}` cannot be written", help="give `-o` another place")
    if os.path.lexists(path) and not (force and path.is_file()):
        help = "`--force` writes over it; `-o` gives another name" if path.is_file() else "give `-o` another name"
        fail("E0982", f"`{path}` is there already", help=help)


def write_new(path: Path, text: str, force: bool = False) -> None:
    """Write `text` to `path` in one step; E0982 as `check_new`, also where a file has come there meanwhile."""
    check_new(path, force)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            if force:
                os.replace(name, path)
            else:
                os.link(name, path)  # fails where somebody else has made one
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fail("E0982", f"`{path}` cannot be written: {reason}", help="give `-o` another place")
