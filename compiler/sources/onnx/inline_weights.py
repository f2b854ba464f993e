"""An ONNX file without the numbers of its large weights: they stay in the file, and are read from there by rows.

    ModelProto { 7: GraphProto { 5: TensorProto { 9: raw_data } } }
        ->  the same, a tensor's `raw_data` replaced by its place: data_location EXTERNAL, location the file itself

Parsed, protobuf would hold every weight and hand out a copy of it whole each time a row is asked for.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

_GRAPH, _INITIALIZER, _RAW = 7, 5, 9
_PLACE, _LOCATION = 13, 14  # of a tensor that says itself where its numbers lie
_LEAST = 1 << 16  # bytes of a weight that stays in the file
_LEN = 2  # the wire type of what has a length
_FIXED = {1: 8, 5: 4}  # wire type -> bytes


def skeleton(file: Path) -> bytes | None:
    """The bytes of the model in `file` without its large weights; None where it has none, or does not read like one.

    OSError where the file cannot be read.
    """
    if not _is_plain_name(file.name) or not file.stat().st_size:
        return None
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data, file.name).model()
        except (IndexError, ValueError):  # damaged: protobuf says it
            return None


def _is_plain_name(name: str) -> bool:
    """Whether a file of that name lies beside itself on every system, as places of weights have to."""
    windows = PureWindowsPath(name)
    return name.isascii() and PurePosixPath(name).name == name == windows.name and not windows.drive


class _Reader:
    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data, self._name, self._moved = data, name, False

    def model(self) -> bytes | None:
        made = self._message(0, len(self._data), (_GRAPH, _INITIALIZER))
        return made if self._moved else None

    def _message(self, start: int, stop: int, path: tuple[int, ...]) -> bytes:
        """The message in [start, stop), with what lies down the `path` of fields without its large weights."""
        if not path:
            return self._tensor(start, stop)
        parts = bytearray()
        for field, begin, inner, end in self._fields(start, stop):
            if field == path[0] and inner is not None:
                body = self._message(inner, end, path[1:])
                parts += _varint(field << 3 | _LEN) + _varint(len(body)) + body
            else:
                parts += self._data[begin:end]
        return bytes(parts)

    def _tensor(self, start: int, stop: int) -> bytes:
        fields = list(self._fields(start, stop))
        raw = [(inner, end) for field, _, inner, end in fields if field == _RAW and inner is not None]
        placed = any(field in (_PLACE, _LOCATION) for field, *_ in fields)
        if placed or len(raw) != 1 or raw[0][1] - raw[0][0] < _LEAST:
            return self._data[start:stop]
        ((inner, end),) = raw
        self._moved = True
        place = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
        for key, text in (("location", self._name), ("offset", str(inner)), ("length", str(end - inner))):
            place.external_data.add(key=key, value=text)
        kept = b"".join(self._data[begin:last] for field, begin, _, last in fields if field != _RAW)
        return kept + place.SerializeToString()

    def _fields(self, start: int, stop: int) -> Iterator[tuple[int, int, int | None, int]]:
        """(number, begin, begin of its content where it has a length, end) of each field; ValueError if damaged."""
        at = start
        while at < stop:
            begin = at
            tag, at = self._number(at)
            kind, inner = tag & 7, None
            if kind == _LEN:
                size, inner = self._number(at)
                at = inner + size
            elif kind in _FIXED:
                at += _FIXED[kind]
            elif kind == 0:
                _, at = self._number(at)
            else:
                raise ValueError(f"wire type {kind}")
            if at > stop:
                raise ValueError("a field ends beyond its message")
            yield tag >> 3, begin, inner, at

    def _number(self, at: int) -> tuple[int, int]:
        """The varint at `at`, and where it ends."""
        made = shift = 0
        while True:
            byte = self._data[at]
            made |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return made, at
            if shift > 63:
                raise ValueError("a number of more than 64 bits")


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)
