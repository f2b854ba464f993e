"""Write the packed form of one weight file: mapped, in segments of a few rows of one tensor, and read back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..emit.sparse_integers import SparseIntegers
from ..files.full_disk import writes
from .kernels import Kernels, kernels
from .layout import MOST, RECORD, Header, Segment, shape_of
from .unpack_file import opened, segments_of

_SEGMENT = 1 << 20  # bytes of integers in a segment, about
_ROWS = 8  # of them fill whole bytes at any width


@dataclass(frozen=True)
class _Piece:
    """A segment, and the rows of a tensor that it holds."""

    segment: Segment
    tensor: SparseIntegers | None = None
    start: int = 0
    stop: int = 0

    def zeros(self) -> np.ndarray | None:
        """The codes for zero of the payload, uint8; None where all integers have the same."""
        if self.tensor is None or self.tensor.zeros is None:
            return None
        return np.ascontiguousarray(self.tensor.zeros(self.start, self.stop)).reshape(-1)


def dense_bytes(tensor: SparseIntegers) -> int:
    """Bytes that a tensor's integers take in the file that is packed."""
    return (tensor.rows * tensor.columns * tensor.bits + 7) // 8


def packed_bytes(tensor: SparseIntegers) -> int:
    """Bytes that a tensor's integers take in the packed form, its rows of the table included."""
    return sum(RECORD + piece.segment.stored for piece in _of_tensor(tensor))


def pack_file(dense: Path, tensors: Sequence[SparseIntegers], packed: Path, using: Kernels | None = None) -> bytes:
    """Write the packed form of `dense`, whose `tensors` have a pattern, to `packed`; returns the sha256 of `dense`.

    NotInPatternError (a mistake of the emitter) for a tensor whose integers do not have it.
    """
    using = using or kernels()
    data = np.memmap(dense, np.uint8, "r")
    pieces = list(_pieces(len(data), tensors))
    digest, at = hashlib.sha256(), 0
    with writes(packed), packed.open("wb") as file:
        file.write(Header(len(data), digest.digest(), [piece.segment for piece in pieces]).bytes())
        for piece in pieces:
            own = data[at : at + piece.segment.dense]
            at += len(own)
            for chunk in _chunks(own):
                digest.update(chunk.data)
                if not piece.segment.bits:
                    file.write(chunk.data)
            if piece.segment.bits:
                file.write(using.pack(piece.segment, own, piece.zeros()))
        file.seek(0)
        file.write(Header(len(data), digest.digest(), [piece.segment for piece in pieces]).bytes())
    _read_back(packed, data, using)
    return digest.digest()


def _read_back(packed: Path, dense: np.ndarray, using: Kernels) -> None:
    at = 0
    with opened(packed) as data:
        for chunk in segments_of(Header.read(data), data, using):
            if not np.array_equal(chunk, dense[at : at + len(chunk)]):
                raise ValueError(f"`{packed}`, read back, does not restore what was packed")
            at += len(chunk)


def _pieces(size: int, tensors: Sequence[SparseIntegers]) -> Iterator[_Piece]:
    """The file from its beginning to its end."""
    at = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < at:
            raise ValueError(f"the integers of `{tensor.name}` lie in those of another tensor")
        if tensor.offset > at:
            yield _Piece(Segment(tensor.offset - at))
        yield from _of_tensor(tensor)
        at = tensor.offset + dense_bytes(tensor)
    if at < size:
        yield _Piece(Segment(size - at))


def _of_tensor(tensor: SparseIntegers) -> Iterator[_Piece]:
    unit, group, keep = shape_of(tensor.sparsity)
    row_bits = tensor.columns * tensor.bits
    step = max(_ROWS, _SEGMENT * 8 // row_bits // _ROWS * _ROWS)
    done = 0
    for start in range(0, tensor.rows, step):
        stop = min(start + step, tensor.rows)
        bits = (stop - start) * row_bits
        if bits % 8 or bits > 8 * MOST:
            break
        segment = Segment(
            bits // 8, tensor.bits, tensor.order, unit, group, keep, tensor.run if tensor.zeros else 0, tensor.zero
        )
        yield _Piece(segment, tensor, start, stop)
        done += bits // 8
    if done < dense_bytes(tensor):  # rows that end within a byte, or are too long: as they are
        yield _Piece(Segment(dense_bytes(tensor) - done))


def _chunks(data: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(data), MOST):
        yield data[start : start + MOST]
