"""C and numpy give the same bytes, and each the way back; what does not fit is an error in both."""

from __future__ import annotations

import math

import numpy as np
import pytest
from edgec.compiler.ir.packing import pack_rows
from edgec.compiler.packed.kernels import IN_NUMPY, Kernels, kernels
from edgec.compiler.packed.layout import DamagedFileError, NotInPatternError, Segment
from hypothesis import given, settings
from hypothesis import strategies as st

BOTH = [pytest.param(IN_NUMPY, id="numpy"), pytest.param(kernels(), id="c")]
PATTERNS = [
    (1, 4, 2),
    (2, 8, 2),
    (1, 8, 4),
    (1, 4, 1),
    (1, 2, 1),
    (1, 16, 8),
    (1, 8, 7),
    (1, 6, 2),
    (1, 64, 32),
    (2, 64, 9),
]


def example(
    bits: int, order: str, pattern: tuple[int, int, int], runs: int, seed: int = 0
) -> tuple[Segment, np.ndarray, np.ndarray | None]:
    """A segment with its bytes and its codes for zero; `runs` groups share one, 0: all have the middle one."""
    rng = np.random.default_rng(seed)
    unit, group, keep = pattern
    groups = 8 * max(runs, 1) * 3
    count, units = groups * group, group // unit
    kept = rng.random((groups, units)).argsort(1).argsort(1) < rng.integers(0, keep + 1, (groups, 1))
    zeros = rng.integers(0, 1 << bits, groups // runs).astype(np.uint8) if runs else None
    zero = np.full(count, 1 << (bits - 1), np.uint8) if zeros is None else np.repeat(zeros, runs * group)
    full = np.concatenate([kept] * unit, axis=1).reshape(-1)
    codes = np.where(full, rng.integers(0, 1 << bits, count), zero).astype(np.uint8)
    dense = pack_rows(codes[None], bits, order)[0]
    head = (unit, group, keep, runs * group, 0 if runs else 1 << (bits - 1))
    return Segment(len(dense), bits, order, *head), dense, zeros


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from((2, 3, 4, 8)),
    st.sampled_from(("little", "big")),
    st.sampled_from(PATTERNS),
    st.sampled_from((0, 1, 3, 8)),
    st.integers(0, 9),
)
def test_c_and_numpy_agree(bits: int, order: str, pattern: tuple[int, int, int], runs: int, seed: int) -> None:
    segment, dense, zeros = example(bits, order, pattern, runs, seed)
    stored = IN_NUMPY.pack(segment, dense, zeros)
    assert len(stored) == segment.stored
    assert Segment.read(segment.row()) == segment
    for one in (IN_NUMPY, kernels()):
        assert one.pack(segment, dense, zeros) == stored
        assert one.restore(segment, np.frombuffer(stored, np.uint8)).tobytes() == dense.tobytes()


@pytest.mark.parametrize("one", BOTH)
@pytest.mark.parametrize("pattern", PATTERNS[:3], ids=str)
def test_a_group_that_is_too_full_is_refused(one: Kernels, pattern: tuple[int, int, int]) -> None:
    segment, dense, _ = example(4, "little", pattern, 0)
    dense[: segment.group // 2] = 0
    with pytest.raises(NotInPatternError):
        one.pack(segment, dense, None)


@pytest.mark.parametrize("one", BOTH)
@pytest.mark.parametrize("pattern", [(1, 4, 2), (2, 8, 2), (1, 8, 4), (1, 64, 32)], ids=str)
def test_a_rank_that_there_is_not_is_refused(one: Kernels, pattern: tuple[int, int, int]) -> None:
    segment, dense, _ = example(4, "big", pattern, 0)
    stored = np.frombuffer(one.pack(segment, dense, None), np.uint8).copy()
    stored[-8:] = 0xFF
    with pytest.raises(DamagedFileError):
        one.restore(segment, stored)


def test_two_of_four_takes_eleven_bits_for_four_weights() -> None:
    segment, dense, _ = example(4, "little", (1, 4, 2), 0)
    assert segment.rank_bits == 3 == (math.comb(4, 2) - 1).bit_length()
    assert segment.stored / len(dense) == 11 / 16


def test_bytes_of_a_segment_by_hand() -> None:
    """Two groups: 9 8 8 15 (units 0 and 3, rank 3) and 8 8 8 1 (unit 3, filled up with unit 0)."""
    segment = Segment(4, 4, "little", 1, 4, 2, 0, 8)
    stored = IN_NUMPY.pack(segment, np.array([0x89, 0xF8, 0x88, 0x18], np.uint8), None)
    assert stored == bytes([0xF9, 0x18, 3 | 3 << 3])
