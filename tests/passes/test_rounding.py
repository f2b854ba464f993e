"""Rounding in C and in numpy: the same scales, zero points and integers, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.compiler.ir.weight_format import TWO_LEVEL, WeightFormat
from edgec.compiler.ir.weights import from_array, transpose
from edgec.compiler.kernels.rounding import IN_NUMPY, rounding
from edgec.passes.quantization import round_to_nearest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

NATIVE = rounding()
FORMATS = [
    *(
        WeightFormat(bits, block, symmetric)
        for bits in (2, 3, 4, 8)
        for block in (16, 24, None)
        for symmetric in (True, False)
    ),
    WeightFormat(4, 16, True, scales=TWO_LEVEL),
]
# ties (halves and quarters of powers of two), what is below float16's and float32's smallest normal numbers, both zeros
VALUES = st.one_of(
    st.integers(-64, 64).map(lambda i: i / 4),
    st.floats(-30000, 30000, width=32),
    st.sampled_from([0.0, -0.0, 2.0**-24, 1e-40, -1e-40, 2.0**-149]),
)
WEIGHTS = arrays(np.float32, (3, 96), elements=VALUES)


IN_C = pytest.mark.skipif(not NATIVE.native, reason="no C compiler: numpy would be compared with itself")


@IN_C
@pytest.mark.parametrize("format_", FORMATS, ids=str)
@settings(max_examples=12, deadline=None)
@given(WEIGHTS)
@example(np.tile(np.float32([7.0, -7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]), (3, 12)))
def test_c_and_numpy_agree(format_: WeightFormat, w: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = []
        for kernels in (IN_NUMPY, NATIVE):
            patch.setattr(round_to_nearest, "_kernels", lambda _, kernels=kernels: kernels)
            made.append(round_to_nearest.quantise(w, format_))
    (q, scale, zero), (q_c, scale_c, zero_c) = made
    assert q_c.dtype == q.dtype
    assert np.array_equal(q_c, q)
    assert np.array_equal(scale_c, scale)
    assert (zero is None and zero_c is None) or np.array_equal(zero_c, zero)


@pytest.mark.parametrize("columns", [96, 1 << 19])
def test_pieces_are_the_whole(columns: int) -> None:
    w = np.random.default_rng(0).standard_normal((11, columns), np.float32)
    for format_ in (WeightFormat(4, 32, True), WeightFormat(4, 32, False)):
        whole = round_to_nearest.quantise(w, format_)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(round_to_nearest, "_PIECE", 4 * 96)
            pieces = round_to_nearest.quantise_in_pieces(lambda a, b: w[a:b], 0, 11, columns, format_)
        for one, other in zip(pieces, whole, strict=True):
            assert (one is None and other is None) or np.array_equal(one, other)


@IN_C
@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 32), np.float64), np.zeros((32, 4), np.float32).T, np.zeros((4, 33), np.float32)]
)
def test_what_is_no_row_of_blocks_is_not_handed_to_c(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="in the place of"):
        NATIVE.largest(wrong, 32)


def test_a_weight_that_has_its_inputs_first_is_rounded_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows come as columns of what is stored, and C wants them in one piece."""
    stored = np.random.default_rng(0).standard_normal((64, 48), np.float32)
    monkeypatch.setattr(round_to_nearest, "_MANY", 0)
    made = round_to_nearest.make("w", transpose(from_array("w", stored)), WeightFormat(4, 32, False), None)
    q, scale, zero = round_to_nearest.quantise(np.ascontiguousarray(stored.T), WeightFormat(4, 32, False))
    assert made.zero_point is not None
    assert np.array_equal(made.q.numpy().astype(np.uint8), q)
    assert np.array_equal(made.scale.numpy(), scale)
    assert np.array_equal(made.zero_point.numpy().astype(np.float32), zero)
