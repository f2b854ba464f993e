"""Files that match a glob, found without walking the disk: so many entries are looked at, and no more.

`*`, `?` and `[…]` match within one name, `**` any number of folders; hidden names only match a pattern that begins with
a dot. Links to folders are followed by name and by `*`, but not by `**`, which could go round in circles.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

MOST = 100_000  # entries of folders


class TooMany(Exception):
    """The glob asks to look at more entries than `MOST`."""


@dataclass
class BoundedGlob:
    """The globs of one block, which share what may be looked at."""

    left: int = MOST
    _seen: set[tuple[str, int]] = field(default_factory=set)

    def files(self, pattern: Path) -> list[Path]:
        """The files that match, sorted; TooMany where that cannot be found out."""
        self._seen = set()
        return sorted({path for path in self._walk("", pattern.parts, 0) if path.is_file()}, key=str)

    def _walk(self, folder: str, parts: tuple[str, ...], at: int) -> Iterator[Path]:
        if at == len(parts):
            yield Path(folder)
            return
        if (folder, at) in self._seen:  # by another way through `**`
            return
        self._seen.add((folder, at))
        part = parts[at]
        if part == "**":
            yield from self._walk(folder, parts, at + 1)
            for entry in self._entries(folder):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(os.path.join(folder, entry.name), parts, at)
                elif at == len(parts) - 1:
                    yield Path(folder, entry.name)
        elif not any(sign in part for sign in "*?["):
            path = os.path.join(folder, part)
            if os.path.lexists(path):
                yield from self._walk(path, parts, at + 1)
        else:
            for entry in self._entries(folder):
                if fnmatchcase(entry.name, part) and (part.startswith(".") or not entry.name.startswith(".")):
                    yield from self._walk(os.path.join(folder, entry.name), parts, at + 1)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        found = []
        try:
            with os.scandir(folder or ".") as entries:
                for entry in entries:
                    self.left -= 1
                    if self.left < 0:
                        raise TooMany
                    found.append(entry)
        except OSError:  # no folder, or one that may not be read: nothing in it matches
            return []
        return found
