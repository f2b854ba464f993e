"""Packages by the content of their files, for what hangs on the code that made it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import cache

_KIND = "own-code"


@functools.cache
def code_digest(*packages: str, endings: Sequence[str] = (".py",)) -> str:
    """sha256 of the files of `packages`, by their places in them; read once for each state of an installation."""
    files = [(f"{package}/{path.relative_to(root)}", path) for package in packages for root, path in _files(package)]
    files = [(name, path) for name, path in files if name.endswith(tuple(endings))]
    stamp = _digest((str(path), path.stat().st_size, path.stat().st_mtime_ns) for _, path in files)
    if (noted := cache.read_note(_KIND, stamp)) is not None:
        return noted
    made = _digest((name, cache.digest_file(path)) for name, path in files)
    with contextlib.suppress(OSError):
        cache.write_note(_KIND, stamp, made)
    return made


def _files(package: str) -> Iterator[tuple[Path, Path]]:
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(one for one in folders if one != "__pycache__")
            yield from ((Path(root), Path(folder, name)) for name in sorted(names))


def _digest(rows: Iterator[tuple[object, ...]]) -> str:
    made = hashlib.sha256()
    for row in rows:
        made.update(f"{row}\n".encode("utf-8", "surrogateescape"))
    return made.hexdigest()
