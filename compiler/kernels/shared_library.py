"""A library of edgec's own in C that is called directly: built at first use, kept in the cache, or none at all."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..diagnostics.diagnostic import EdgecError
from ..files import cache
from .c_compiler import called, compiler

_FLAGS = ("-O3", "-shared", "-fPIC")
_LIBRARY = "kernels.so"


def shared_library(kind: str, sources: Sequence[Path], flags: Sequence[str] = ()) -> ctypes.CDLL | None:
    """The library of `sources`, the first of which is compiled; None where no compiler makes it."""
    found = compiler()
    if found is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError, EdgecError):
        return built([*found, *_FLAGS, *flags], kind, sources)
    return None


def built(words: Sequence[str], kind: str, sources: Sequence[Path]) -> ctypes.CDLL:
    """The same by the call of a compiler that `words` begin; OSError or SubprocessError if it fails."""
    key = hashlib.sha256(repr(list(words)).encode() + b"".join(path.read_bytes() for path in sources)).hexdigest()

    def build(entry: Path) -> None:
        called([*words, "-o", str(entry / _LIBRARY), str(sources[0])])

    return ctypes.CDLL(str(cache.make(kind, key, build) / _LIBRARY))
