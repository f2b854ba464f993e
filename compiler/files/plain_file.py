"""Files of other people are files: a pipe that nobody writes to would be waited for, a device has no end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def kind(mode: int) -> str:
    """What a path is that is no file, in words; empty for a file."""
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a named pipe" if stat.S_ISFIFO(mode) else "a device"


def open_plain(path: Path) -> BinaryIO:
    """`path` open for reading; OSError if it is no file, without waiting for anybody at its other end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if wrong := kind(mode):
            raise OSError(errno.EINVAL, f"it is {wrong}, not a file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_plain(path: Path) -> bytes:
    """The content of a file; OSError as `open_plain`."""
    with open_plain(path) as file:
        return file.read()
