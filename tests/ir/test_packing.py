"""The bytes of packed integers, in both bit orders."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.compiler.ir.packing import BitOrder, pack_rows, unpack_rows
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays


@pytest.mark.parametrize(
    ("order", "bits", "values", "expected"),
    [
        ("little", 1, [1, 0, 0, 0, 0, 0, 0, 0, 1], "01 01"),
        ("big", 1, [1, 0, 0, 0, 0, 0, 0, 0, 1], "80 80"),
        ("little", 2, [1, 2, 3, 0], "39"),
        ("big", 2, [1, 2, 3, 0], "6c"),
        ("little", 3, [5, 6, 7], "f5 01"),
        ("big", 3, [5, 6, 7], "bb 80"),
        ("little", 4, [1, 2, 15], "21 0f"),
        ("big", 4, [1, 2, 15], "12 f0"),
        ("little", 4, [-1, -8], "8f"),
        ("big", 4, [-1, -8], "f8"),
        ("little", 8, [1, 255], "01 ff"),
        ("big", 8, [1, 255], "01 ff"),
    ],
)
def test_bytes(order: BitOrder, bits: int, values: list[int], expected: str) -> None:
    rows = np.array([values, [0] * len(values)])  # the second row begins at a byte of its own
    packed = pack_rows(rows, bits, order)
    assert packed.dtype == np.uint8
    assert packed[0].tobytes() == bytes.fromhex(expected)
    assert not packed[1].any()


@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9)),
    st.integers(1, 8),
    st.sampled_from(("little", "big")),
)
def test_unpacked_rows_are_what_was_packed(values: np.ndarray, bits: int, order: BitOrder) -> None:
    values &= (1 << bits) - 1
    packed = pack_rows(values, bits, order)
    assert packed.shape == (len(values), (values.shape[1] * bits + 7) // 8)
    np.testing.assert_array_equal(unpack_rows(packed, bits, values.shape[1], order), values)
