"""Restore a weight file from its packed form: mapped, a segment at a time; the file has its name when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..diagnostics.diagnostic import fail
from ..files.full_disk import writes
from .kernels import Kernels, kernels
from .layout import MOST, RECORD, DamagedFileError, Header

_AGAIN = "copy the bundle again, or compile again"


def unpack_file(packed: Path, dense: Path, using: Kernels | None = None) -> None:
    """Write the file that `packed` was made from to `dense`; E0908 if `packed` is damaged, and nothing is left then."""
    partial = dense.with_name(f"{dense.name}.partial")
    try:
        with opened(packed) as data:
            header, digest = Header.read(data), hashlib.sha256()
            with writes(dense), partial.open("wb") as file:
                for chunk in segments_of(header, data, using or kernels()):
                    digest.update(chunk.data)
                    file.write(chunk.data)
        if digest.digest() != header.sha256:
            raise DamagedFileError("what it restores has another sha256 than it says")
        partial.replace(dense)
    except DamagedFileError as error:
        fail("E0908", f"`{packed}` cannot be unpacked: {error}", help=_AGAIN)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(packed: Path) -> Iterator[memoryview]:
    """The bytes of a packed file, mapped."""
    with packed.open("rb") as file:
        if not file.seek(0, 2):
            raise DamagedFileError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            yield data


def segments_of(header: Header, data: memoryview, using: Kernels) -> Iterator[np.ndarray]:
    """The restored file in pieces of bounded size, from its beginning to its end."""
    at = RECORD * (1 + len(header.segments))
    for segment in header.segments:
        if segment.bits:
            yield using.restore(segment, _copied(data, at, segment.stored))
        else:
            for start in range(0, segment.stored, MOST):
                yield _copied(data, at + start, min(MOST, segment.stored - start))
        at += segment.stored


def _copied(data: memoryview, start: int, count: int) -> np.ndarray:
    """Bytes of the mapped file; a copy, so that the map can be closed whoever holds the array."""
    return np.frombuffer(bytes(data[start : start + count]), np.uint8)
