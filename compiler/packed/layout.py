"""The layout of a packed weight file; docs/bundle.md says the same for readers of other languages.

    header      64 bytes   magic, version, number of segments, bytes and sha256 of the restored file
    table       64 bytes for each segment, in the order of the restored file
    payloads    one behind the other

A segment is a stretch of the restored file: bytes as they are, or integers of one tensor with a pattern. Of every group
of integers the kept ones are stored, and the rank of the mask that says which: among all masks with as many bits set,
in the order of their numbers. 2:4 has six masks, 3 bits for four weights; two indices of 2 bits would take 4.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ..ir.sparse_pattern import LARGEST_GROUP, PAIRS, Sparsity

MAGIC, VERSION = b"edgecNM\n", 1
RECORD = 64  # bytes of the header, and of a row of the table
MOST = 16 << 20  # bytes of integers in a segment: what a reader has to hold at once
_HEADER = struct.Struct("<8sIIQ8x32s")
_ROW = struct.Struct("<BBBBHHQQIIQQ16x")

Order = Literal["little", "big"]


class DamagedFileError(Exception):
    """The bytes are no packed weight file of this version."""


class NotInPatternError(ValueError):
    """A group holds more units than its pattern keeps."""


@dataclass(frozen=True)
class Segment:
    """A row of the table.

    dense   bytes of the restored file
    bits    of an integer; 0: bytes as they are, and nothing below matters
    order   whether an integer is in the low bits or the high bits of its first byte
    unit    integers that are kept or dropped as one: k, and with 2 also k + group / 2
    group   integers that one choice is made among
    keep    units of a group that are stored
    run     integers that share a code for zero, which the payload lists; 0: all have the code `zero`
    """

    dense: int
    bits: int = 0
    order: Order = "little"
    unit: int = 1
    group: int = 0
    keep: int = 0
    run: int = 0
    zero: int = 0

    @property
    def count(self) -> int:
        """Integers in the segment."""
        return self.dense * 8 // self.bits if self.bits else 0

    @property
    def units(self) -> int:
        """Units of a group."""
        return self.group // self.unit

    @property
    def groups(self) -> int:
        """Groups in the segment."""
        return self.count // self.group

    @property
    def runs(self) -> int:
        """Codes for zero in the payload."""
        return self.count // self.run if self.run else 0

    @property
    def rank_bits(self) -> int:
        """Bits that say which units of a group are kept."""
        return (math.comb(self.units, self.keep) - 1).bit_length()

    @cached_property
    def pieces(self) -> tuple[int, int, int]:
        """Bytes of the payload's pieces: codes for zero, kept integers, ranks."""
        kept = self.groups * self.keep * self.unit
        return _bytes(self.runs * self.bits), _bytes(kept * self.bits), _bytes(self.groups * self.rank_bits)

    @property
    def stored(self) -> int:
        """Bytes of the payload."""
        return sum(self.pieces) if self.bits else self.dense

    def row(self) -> bytes:
        """The segment as 64 bytes of the table."""
        high, kind = int(self.order == "big"), int(self.bits > 0)
        head = (kind, self.bits, high, self.unit if kind else 0, self.group, self.keep)
        return _ROW.pack(*head, self.count, self.run, self.zero, 0, self.dense, self.stored)

    @classmethod
    def read(cls, row: bytes) -> Segment:
        """The inverse of `row`; DamagedFileError for what no packer of this version writes."""
        kind, bits, high, unit, group, keep, count, run, zero, _, dense, stored = _ROW.unpack(row)
        if kind == 0:
            found = cls(dense)
        else:
            sound = kind == 1 and 1 <= bits <= 8 and high <= 1 and unit in (1, 2) and 2 <= group <= LARGEST_GROUP
            if not sound or group % unit or not 1 <= keep < group // unit or zero >> bits or dense > MOST:
                raise DamagedFileError("a segment has a pattern that there is not")
            found = cls(dense, bits, ("little", "big")[high], unit, group, keep, run, zero)
            whole = 0 < count == found.count and count * bits == 8 * dense and not count % group
            if not whole or (run and count % run):
                raise DamagedFileError("a segment has sizes that contradict each other")
        if found.stored != stored:
            raise DamagedFileError("a segment has sizes that contradict each other")
        return found


@dataclass(frozen=True)
class Header:
    """What a packed file says of itself; `size` and `sha256` are the restored file's."""

    size: int
    sha256: bytes
    segments: Sequence[Segment]

    def bytes(self) -> bytes:
        """Header and table."""
        head = _HEADER.pack(MAGIC, VERSION, len(self.segments), self.size, self.sha256)
        return head + b"".join(segment.row() for segment in self.segments)

    @classmethod
    def read(cls, data: memoryview) -> Header:
        """Header and table of a whole packed file; DamagedFileError if its length is not what they add up to."""
        if len(data) < RECORD or data[:8] != MAGIC:
            raise DamagedFileError("it does not begin as a packed weight file does")
        _, version, count, size, sha256 = _HEADER.unpack_from(data)
        if version != VERSION:
            raise DamagedFileError(f"it is of version {version}, this edgec reads version {VERSION}")
        if RECORD * (1 + count) > len(data):
            raise DamagedFileError("it ends within its table")
        table = bytes(data[RECORD : RECORD * (1 + count)])
        segments = [Segment.read(table[at : at + RECORD]) for at in range(0, len(table), RECORD)]
        made = cls(size, sha256, segments)
        if sum(segment.dense for segment in made.segments) != size:
            raise DamagedFileError("its segments do not make up the restored file")
        if RECORD * (1 + count) + sum(segment.stored for segment in made.segments) != len(data):
            raise DamagedFileError("it has another length than its table says")
        return made


def shape_of(sparsity: Sparsity) -> tuple[int, int, int]:
    """`unit`, `group` and `keep` of a pattern."""
    return (2 if sparsity.pattern == PAIRS else 1), sparsity.group, sparsity.keep


def _bytes(bits: int) -> int:
    return (bits + 7) // 8
