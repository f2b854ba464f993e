"""The arithmetic of round to nearest: within half a step, scales of float16, edges handled as documented."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.ir.linears import QuantizedWeight
from edgec.compiler.ir.weight_format import WeightFormat
from edgec.compiler.ir.weights import Weight, from_array
from edgec.passes.quantization.round_to_nearest import make, quantise
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FORMATS = [
    WeightFormat(bits, block, symmetric) for bits in (4, 8) for block in (16, 32, None) for symmetric in (True, False)
]
WEIGHTS = hnp.arrays(np.float32, (3, 64), elements=st.floats(-100, 100, width=32))


def restored(w: np.ndarray, format_: WeightFormat) -> tuple[np.ndarray, np.ndarray]:
    """Dequantised weights, and the scale of each of them."""
    q, scale, zero = quantise(w, format_)
    block = format_.block or w.shape[1]
    wide = np.repeat(scale, block, axis=1)
    offset = 0 if zero is None else np.repeat(zero, block, axis=1)
    return (q - offset) * wide, wide


@pytest.mark.parametrize("format_", FORMATS, ids=str)
@given(w=WEIGHTS)
@settings(max_examples=40, deadline=None)
def test_error_is_half_a_step(format_: WeightFormat, w: np.ndarray) -> None:
    made, scale = restored(w, format_)
    # float16 rounds a scale by up to 2^-11 of itself (2^-25 below its normal range), and the outermost integers feel
    # that fully; a zero point adds its own rounding, at most half a step where the range is clipped
    reach = (1 << format_.bits) - 1
    slack = (reach / 2 if format_.symmetric else reach) * (2.0**-11 * scale + 2.0**-25)
    bound = (0.5 if format_.symmetric else 1.0) * scale + slack
    assert (np.abs(made - w) <= bound + 1e-6 * np.abs(w)).all()


@pytest.mark.parametrize("format_", FORMATS, ids=str)
@given(w=WEIGHTS)
@settings(max_examples=20, deadline=None)
def test_scales_are_float16_and_integers_in_range(format_: WeightFormat, w: np.ndarray) -> None:
    q, scale, zero = quantise(w, format_)
    assert (scale == scale.astype(np.float16)).all()
    assert (scale > 0).all()
    low, high = np.iinfo({True: np.int8, False: np.uint8}[format_.symmetric]).min, (1 << format_.bits) - 1
    assert q.min() >= max(low, -(1 << (format_.bits - 1)) if format_.symmetric else 0)
    assert q.max() <= (high >> 1 if format_.symmetric else high)
    assert (zero is None) == format_.symmetric


def test_known_integers() -> None:
    w = np.array([[7.0, -7.0, 3.4, -3.6] + [0.0] * 12], np.float32)
    q, scale, _ = quantise(w, WeightFormat(4, 16, True))
    assert scale.tolist() == [[1.0]]
    assert q[0, :4].tolist() == [7, -7, 3, -4]
    q, scale, zero = quantise(np.array([[0.0, 15.0, 6.0, 9.0] * 4], np.float32), WeightFormat(4, 16, False))
    assert (scale.tolist(), zero.tolist()) == ([[1.0]], [[0.0]])
    assert q[0, :4].tolist() == [0, 15, 6, 9]


@pytest.mark.parametrize("format_", FORMATS, ids=str)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-8, 1e-6])
def test_blocks_of_almost_nothing(format_: WeightFormat, size: float) -> None:
    """Zeros stay zeros; what is below float16's smallest scale stays below it."""
    made, _ = restored(np.full((2, 64), size, np.float32), format_)
    assert np.isfinite(made).all()
    assert np.abs(made - size).max() <= (2.0**-24) * 128 if size else (made == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value: float, golden_error) -> None:
    w = np.zeros((40, 32), np.float32)
    w[33, 5] = value
    made = make("layers.3.mlp.up_proj.weight", from_array("w", w), WeightFormat(4, 32, True), None)
    made.q.rows(0, 33)  # nothing wrong up to there
    with pytest.raises(EdgecError, match=r"`layers\.3\.mlp\.up_proj\.weight` holds (NaN|infinity) in row 33") as raised:
        made.q.rows(20, 40)
    if np.isnan(value):
        golden_error("E0411", raised.value)
    with pytest.raises(EdgecError, match="row 33"):
        made.scale.rows(33, 34)


def test_too_large_for_a_scale(golden_error) -> None:
    w = np.zeros((4, 32), np.float32)
    w[2, 1] = 65504 * 7
    make("head.weight", from_array("w", w), WeightFormat(4, 32, True), None).q.rows(0, 4)  # just fits
    w[2, 1] *= 1.01
    with pytest.raises(EdgecError) as raised:
        make("head.weight", from_array("w", w), WeightFormat(4, 32, True), None).q.rows(0, 4)
    golden_error("E0412", raised.value)


@pytest.mark.parametrize("format_", FORMATS, ids=str)
def test_lazy_rows_do_not_depend_on_where_they_are_cut(format_: WeightFormat) -> None:
    w = np.random.default_rng(0).standard_normal((50, 96)).astype(np.float32)
    made = make("w", from_array("w", w), format_, None)
    for weight in (made.q, made.scale, made.zero_point):
        if weight is not None:
            pieces = np.concatenate([weight.rows(a, min(a + 7, 50)) for a in range(0, 50, 7)])
            assert pieces.tobytes() == weight.numpy().tobytes()


def test_nothing_is_read_before_rows_are_asked_for() -> None:
    def never(start: int, stop: int) -> np.ndarray:
        raise AssertionError("read")

    source = Weight("w", from_array("w", np.zeros((1, 1), np.float32)).dtype, (1 << 20, 4096), never, "nowhere")
    made = make("w", source, WeightFormat(4, 32, True), None)
    assert made.nbytes == (1 << 31) + (1 << 29)  # half a byte a weight; a float32 scale for 32


def test_agrees_with_the_reader() -> None:
    """What `linears.QuantizedWeight` makes of the tensors is what was quantised."""
    w = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    for format_ in FORMATS:
        made = make("w", from_array("w", w), format_, None)
        axis = 0 if format_.block is None else 1
        quant = QuantizedWeight(None, made.q, made.scale, made.zero_point, format_.block, axis)  # type: ignore[arg-type]
        assert np.array_equal(quant.rows(2, 7), restored(w, format_)[0][2:7].astype(np.float32))
        assert quant.format == format_
