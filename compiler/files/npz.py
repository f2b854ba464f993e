"""Arrays in an .npz file of somebody else's: nothing pickled, and nothing larger than the file says and allows.

Headers are read first: the size that an array's header states has to be the size that lies behind it. A header that
claims a terabyte, or a few bytes of zip that unpack to one, is refused before memory is taken.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from .plain_file import open_plain

MOST = 1 << 30  # bytes of all arrays of one file
_MOST_ARRAYS = 4096
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class ArrayHeader:
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def headers(path: Path) -> dict[str, ArrayHeader]:
    """The arrays of the .npz file at `path` by name; ValueError with a reason where it is none, OSError as `open`."""
    with open_plain(path) as file, _opened(file) as archive:
        return {name: header for name, (_, header) in _members(archive).items()}


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file by name; errors as `headers`."""
    with open_plain(path) as file, _opened(file) as archive:
        found = _members(archive)
        try:
            return {name: _array(archive, info, header) for name, (info, header) in found.items()}
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as problem:
            raise ValueError("it is damaged or was cut") from problem


def _opened(file: IO[bytes]) -> zipfile.ZipFile:
    if file.read(6) == b"\x93NUMPY":
        raise ValueError("it holds one array without a name")
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as problem:
        raise ValueError("it is no zip archive, or was cut") from problem


def _members(archive: zipfile.ZipFile) -> dict[str, tuple[zipfile.ZipInfo, ArrayHeader]]:
    infos = archive.infolist()
    if len(infos) > _MOST_ARRAYS:
        raise ValueError(f"it holds {len(infos)} files, allowed are {_MOST_ARRAYS}")
    if (size := sum(info.file_size for info in infos)) > MOST:
        raise ValueError(f"its arrays take {size / 2**30:.1f} GiB, allowed is {MOST >> 30} GiB")
    found: dict[str, tuple[zipfile.ZipInfo, ArrayHeader]] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in found:
            raise ValueError(f"it holds `{name}` twice")
        found[name] = info, _header(archive, info, name)
    return found


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> ArrayHeader:
    try:
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            if version not in _READERS:
                raise ValueError("a version of the format that numpy writes for structures")
            shape, _, dtype = _READERS[version](member)
            behind = info.file_size - member.tell()
    except Exception as problem:  # zipfile, tokenize and ast each raise their own
        raise ValueError(f"`{name}` is no array that `numpy.savez` wrote") from problem
    header = ArrayHeader(shape, dtype)
    if dtype.hasobject:
        raise ValueError(f"`{name}` holds Python objects, which are never unpickled")
    if dtype.names is not None or dtype.itemsize == 0 or any(size < 0 for size in shape):
        raise ValueError(f"`{name}` is no array of numbers or texts")
    if header.nbytes != behind:
        raise ValueError(f"`{name}` states {header.nbytes} bytes and has {behind}")
    return header


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: ArrayHeader) -> np.ndarray:
    with archive.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
    if array.nbytes != header.nbytes:
        raise ValueError(f"`{info.filename}` changed while it was read")
    return array
