"""A disk that is full, or a quota that is used up: the error names the file that could not be written.

The system's own error of a `write` names none, and that of a copy names the file that was read. The one at fault is the
file in the folder at hand that was written last.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ..diagnostics.diagnostic import Diagnostic, PlanError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NEARLY = 4 << 20  # bytes left: a library that was refused a block has given some back


class _Written(OSError):
    """The system's error, with the name of the file that was written."""


class DiskFull(PlanError, OSError):
    """E0955 with the file's name; still an OSError for those who can do without what they wanted to write."""


@contextlib.contextmanager
def names_the_file(folder: Path, final: Path, help: str) -> Iterator[None]:
    """DiskFull with `help` where the block fills the disk of `folder`; its files are shown as those of `final`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        if isinstance(error, _Written):
            if not Path(error.filename).is_relative_to(folder):
                raise
            last: Path | None = Path(error.filename)
        elif error.errno == errno.EFBIG or _is_full(folder):
            last = _written_last(folder)
        else:
            raise
        shown = final if last is None else final / last.relative_to(folder)
        message = f"`{shown}` cannot be written: {os.strerror(error.errno).lower()}"
        raise DiskFull(Diagnostic("E0955", message, help=help)) from error


@contextlib.contextmanager
def writes(path: Path) -> Iterator[None]:
    """Name `path` in the error of a full disk: for a copy, and what a library removes again if it fails."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or isinstance(error, _Written):
            raise
        raise _Written(error.errno, error.strerror, str(path)) from error


def _is_full(folder: Path) -> bool:
    try:
        facts = os.statvfs(folder)
    except OSError:
        return False
    return facts.f_bavail * facts.f_frsize < _NEARLY


def _written_last(folder: Path) -> Path | None:
    found: list[tuple[int, Path]] = []
    for root, _folders, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # somebody else's, removed meanwhile
                path = Path(root) / name
                found.append((path.stat().st_mtime_ns, path))
    return max(found, default=(0, None))[1]
