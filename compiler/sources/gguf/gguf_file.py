"""A GGUF file's header: its metadata, and where each tensor is stored. Plain Python, no weight is read.

    "GGUF" | u32 version | u64 tensors | u64 pairs | (string key | u32 type | value) … | tensor descriptions … | data
    string = u64 n | n bytes of UTF-8          array = u32 type | u64 n | n values
    tensor = string name | u32 rank | u64 dimension … | u32 ggml type | u64 offset from the start of the data

Dimensions are stored innermost first; `shape` here is in the order of every other part of edgec, outputs first. The
package `gguf` has a reader too: it maps the file and takes 3.4 s for a vocabulary of 49,152, this one 0.1 s.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from ...diagnostics.diagnostic import fail
from ...files.positional_read import SourceFile
from ..hf.config_file import Config, pointer_hint
from .ggml_types import TYPES, GgmlType

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_U64 = struct.Struct("<Q")  # lengths; a vocabulary has hundreds of thousands
_VERSIONS = (2, 3)
_MOST_RANK = 4  # ggml's own limit
_ALIGNMENT = 32  # where `general.alignment` does not say otherwise


@dataclass(frozen=True)
class StoredBlocks:
    """Where one tensor is stored, as rows of ggml blocks. `shape` is [N, K], or [K] for a single row."""

    name: str
    file: SourceFile
    offset: int
    type: GgmlType
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """How many rows of `shape[-1]` numbers there are."""
        return prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Stored bytes of a row."""
        return self.type.row_bytes(self.shape[-1])


@dataclass(frozen=True)
class GgufFile:
    """What the header says."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredBlocks]
    header_bytes: int

    @cached_property
    def config(self) -> Config:
        """The metadata with checked access by full key."""
        return Config(self.metadata, self.path)

    @cached_property
    def digest(self) -> str:
        """sha256 of the header: metadata and tensor descriptions, without the weights."""
        with self.path.open("rb") as stream:
            return _hashed(stream, self.header_bytes)

    def section(self, prefix: str) -> Config:
        """The keys that begin with `prefix`, which errors name in full."""
        inside = {key.removeprefix(prefix): value for key, value in self.metadata.items() if key.startswith(prefix)}
        return Config(inside, self.path, prefix)


def read_gguf(path: Path) -> GgufFile:
    """Metadata and tensors of the GGUF file at `path`; whatever in its header is wrong is an error naming the file."""
    try:
        with path.open("rb", buffering=1 << 20) as stream:
            size = os.fstat(stream.fileno()).st_size
            known = _last.get(path)
            if known is None or known.size != size or _hashed(stream, known.file.header_bytes) != known.digest:
                stream.seek(0)
                file = _Reader(path, stream, size).read()
                known = _Known(file, size, _hashed(stream, file.header_bytes))
                _last.clear()
                _last[path] = known
            return known.file
    except OSError as problem:
        fail("E0340", f"cannot read `{path}`: {(problem.strerror or str(problem)).lower()}")


class _Known(NamedTuple):
    """A header that was read, the size of its file and its sha256, which takes a thirtieth of the time to tell."""

    file: GgufFile
    size: int
    digest: str


_last: dict[Path, _Known] = {}  # a command asks for the same header several times


def _hashed(stream: BinaryIO, count: int) -> str:
    stream.seek(0)
    return hashlib.sha256(stream.read(count)).hexdigest()


class _Reader:
    def __init__(self, path: Path, stream: BinaryIO, size: int) -> None:
        self.path, self.stream, self.size = path, stream, size

    def read(self) -> GgufFile:
        """The whole header."""
        start = self.stream.read(64)
        if start[:4] != b"GGUF":
            message = f"`{self.path}` is no GGUF file: it does not begin with `GGUF`"
            fail("E0341", message, help=pointer_hint(start) or "fetch the file again, or name the right one")
        self.stream.seek(4)
        (version,) = self._numbers("I", 1)
        if version not in _VERSIONS:
            help = "edgec reads versions 2 and 3, little endian; convert the model again with llama.cpp's converter"
            swapped = " (big endian)" if version & 0xFFFF == 0 else ""
            fail("E0341", f"`{self.path}` is a GGUF file of version {version}{swapped}", help=help)
        tensors, pairs = self._numbers("Q", 2)
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._string("a key")
            (kind,) = self._numbers("I", 1)
            if key in metadata:
                self._wrong(f"it has the key `{key}` twice")
            metadata[key] = self._value(key, kind)
        described = [self._tensor() for _ in range(tensors)]
        end = self.stream.tell()
        return GgufFile(self.path, metadata, self._placed(described, metadata, end), end)

    def _placed(
        self, described: list[tuple[str, tuple[int, ...], int, int]], metadata: dict[str, Any], end: int
    ) -> dict[str, StoredBlocks]:
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            self._wrong(f"`general.alignment` is {alignment!r}, not a power of two")
        start = -(-end // alignment) * alignment
        source, found = SourceFile(self.path), {}
        for name, shape, kind, offset in described:
            if name in found:
                self._wrong(f"it has the tensor `{name}` twice")
            if kind not in TYPES:
                message = f"tensor `{name}` in `{self.path}` is stored in ggml type {kind}, which edgec does not know"
                fail("E0346", message, help="make the GGUF again in a type of `docs/models.md`, e.g. Q8_0")
            tensor = StoredBlocks(name, source, start + offset, TYPES[kind], shape)
            if shape[-1] % tensor.type.block:
                self._wrong(
                    f"tensor `{name}` has rows of {shape[-1]}, {tensor.type.name} has blocks of {tensor.type.block}"
                )
            beyond = tensor.offset + tensor.rows * tensor.row_bytes - self.size
            if beyond > 0:
                message = f"`{self.path}` is cut short: tensor `{name}` ends {beyond} bytes beyond the file"
                fail("E0342", message, help="fetch the file again")
            found[name] = tensor
        return found

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string("a tensor's name")
        (rank,) = self._numbers("I", 1)
        if not 1 <= rank <= _MOST_RANK:
            self._wrong(f"tensor `{name}` has {rank} dimensions")
        shape = tuple(reversed(self._numbers("Q", rank)))
        if 0 in shape:
            self._wrong(f"tensor `{name}` has a dimension of zero")
        (kind,) = self._numbers("I", 1)
        (offset,) = self._numbers("Q", 1)
        return name, shape, kind, offset

    def _value(self, key: str, kind: int) -> Any:
        if kind in _SCALARS:
            return self._numbers(_SCALARS[kind], 1)[0]
        if kind == _STRING:
            return self._string(f"`{key}`")
        if kind != _ARRAY:
            self._wrong(f"`{key}` has type {kind}, which GGUF does not know")
        (inner,) = self._numbers("I", 1)
        (count,) = self._numbers("Q", 1)
        if inner in _SCALARS:
            return list(self._numbers(_SCALARS[inner], count))
        if inner != _STRING:
            self._wrong(f"`{key}` is an array of type {inner}, which edgec does not read")
        if count > self.size:
            self._cut()
        return self._strings(f"`{key}`", count)

    def _strings(self, what: str, count: int) -> list[str]:
        read, unpack, found, size = self.stream.read, _U64.unpack, [b""], 0
        try:
            for _ in range(count):
                (size,) = unpack(read(8))
                if size > self.size:
                    self._cut()
                found.append(read(size))
        except struct.error:  # the file ended
            self._cut()
        if len(found[-1]) < size:
            self._cut()
        try:
            return [str(raw, "utf-8") for raw in found[1:]]
        except UnicodeDecodeError:
            self._wrong(f"{what} is not UTF-8")

    def _string(self, what: str) -> str:
        raw = self._bytes(_U64.unpack(self._bytes(8))[0])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self._wrong(f"{what} is not UTF-8")

    def _numbers(self, code: str, count: int) -> tuple[Any, ...]:
        return struct.unpack(f"<{count}{code}", self._bytes(struct.calcsize(f"<{code}") * count))

    def _bytes(self, count: int) -> bytes:
        raw = self.stream.read(count) if count <= self.size else b""
        if len(raw) < count:
            self._cut()
        return raw

    def _cut(self) -> NoReturn:
        message = f"`{self.path}` is cut short: its header does not end within its {self.size} bytes"
        fail("E0342", message, help="fetch the file again")

    def _wrong(self, why: str) -> NoReturn:
        fail("E0341", f"the header of `{self.path}` is wrong: {why}", help="fetch or convert the file again")
