"""Weight blobs: bit streams round trip, integers and scales come back as they went in, MNN computes with them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.ir.weights import from_array
from edgec.targets.mnn.conformance.linears import LinearFormat, random_weight, run_linear
from edgec.targets.mnn.file import weight_blobs as blobs
from edgec.targets.mnn.file.read_back import WeightReader
from hypothesis import given, settings
from hypothesis import strategies as st


def test_header_widens_with_the_shape():
    assert blobs.header(3, 70, 2) == b"\x02\x03\x00\x46\x00\x04\xfe\xff\x00\x01"
    assert (
        blobs.header(65536, 4, 8)[:10] == b"\x02" + (65536).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"\x00"
    )


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from([16, 32, None]),
    st.booleans(),
    st.integers(1, 70),
    st.integers(1, 5),
    st.integers(0, 9),
)
def test_weights_read_back(tmp_path_factory, bits, block, symmetric, rows, blocks, before):
    columns = 32 * blocks
    weight = random_weight(np.random.default_rng(rows), LinearFormat(bits, block, symmetric), rows, columns)
    path = tmp_path_factory.mktemp("w") / "x.weight"
    with path.open("wb") as file:
        file.write(bytes(before))
        blob = blobs.write_quantized(file, weight, np.arange(rows, dtype=np.float32))
    assert (blob.offset, blob.end) == (before, path.stat().st_size)
    reader = WeightReader(path)
    codes = reader.codes(blob, 0, rows).astype(np.float64) - (1 << (bits - 1))
    alpha = reader.alpha(blob, 0, rows).astype(np.float64)
    grouped = codes.reshape(rows, -1, columns // alpha.shape[1])
    made = grouped * (alpha[..., None] if symmetric else alpha[..., 1:]) + (0 if symmetric else alpha[..., :1])
    np.testing.assert_array_equal(made.reshape(rows, columns), weight.rows(0, rows))  # bit for bit


def test_zero_points_that_halves_cannot_hold_are_stored_as_floats():
    rng = np.random.default_rng(0)
    assert blobs.write_quantized(io.BytesIO(), random_weight(rng, LinearFormat(4, 32, True), 8, 64)).half_alpha
    assert not blobs.write_quantized(io.BytesIO(), random_weight(rng, LinearFormat(8, 32, False), 64, 64)).half_alpha


@pytest.mark.parametrize(("value", "bits"), [(1.0, 16), (65504.0, 16), (65600.0, 32), (-1e9, 32)])
def test_floats_that_overflow_halves_stay_floats(value, bits):
    weight = from_array("w", np.array([[0.5, value]], np.float32))
    file = io.BytesIO()
    blob = blobs.write_float(file, weight)
    assert blob.bits == bits
    stored = np.frombuffer(file.getvalue()[: blob.code_bytes], np.float16 if bits == 16 else np.float32)
    np.testing.assert_array_equal(stored, [0.5, value])


def test_rows_come_in_bounded_ranges_of_whole_bytes():
    weight = random_weight(np.random.default_rng(0), LinearFormat(2, None, True), 4100, 1024)
    ranges = list(blobs.row_ranges(weight))
    assert [start for start, _ in ranges[1:]] == [stop for _, stop in ranges[:-1]]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 4100
    assert all(start % 8 == 0 and (stop - start) * 4096 <= 8 << 20 for start, stop in ranges)


@pytest.mark.parametrize(
    ("bits", "block", "symmetric"),
    [
        (4, 32, True),
        (4, 16, False),
        (8, None, False),
        (8, 128, True),
        (2, 64, False),
        (3, 32, True),
        (3, None, False),
        (16, None, True),
        (32, None, True),
    ],
)
def test_mnn_computes_with_them(tmp_path: Path, bits, block, symmetric):
    exact, _ = run_linear(tmp_path, LinearFormat(bits, block, symmetric), 33, 128, "normal")
    assert exact < 2e-6
    rounded, _ = run_linear(tmp_path, LinearFormat(bits, block, symmetric), 33, 128, "low")
    assert rounded < 2e-6 if bits >= 16 else 2e-4 < rounded < 0.03  # int8 activations do show
