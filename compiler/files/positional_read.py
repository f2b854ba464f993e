"""One file that many weights lie in. Without numpy, so that `edgec check` can read a checkpoint's headers."""

from __future__ import annotations

import os
from pathlib import Path


class SourceFile:
    """One file read with `pread`; opened on first use, shared by all weights that lie in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def read(self, offset: int, size: int) -> bytearray:
        """Exactly `size` bytes at `offset`; a short file is an OSError naming it."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDONLY)
        data = bytearray(size)
        view = memoryview(data)
        done = 0
        while done < size:
            count = os.preadv(self._fd, [view[done : done + (64 << 20)]], offset + done)
            if not count:
                raise OSError(f"{self.path} ends at byte {offset + done}, {size - done} bytes early")
            done += count
        return data

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
