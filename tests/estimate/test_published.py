"""The fit on rates it has not seen: the errors of `benchmarks/estimate.py`, within those of docs/estimate.md."""

import sys
from pathlib import Path
from statistics import median

import pytest
from edgec.compiler.estimate.fit import fit
from edgec.compiler.estimate.published import npu_rates
from edgec.compiler.plan.devices import devices

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import estimate
    finally:
        sys.path.remove(str(BENCHMARKS))
    return estimate


def test_rates_left_out_are_met(benchmark):
    errors = [abs(row["error"]) for row in benchmark.rate_rows() if row["chip"] in devices()]
    assert len(errors) == 14
    assert median(errors) <= 0.08
    assert max(errors) <= 0.20


def test_chips_of_no_fit_are_met(benchmark):
    assert max(abs(row["error"]) for row in benchmark.elsewhere_rows()) <= 0.10


def test_gains_of_speculation_are_met(benchmark):
    assert max(abs(row["error"]) for row in benchmark.pair_rows()) <= 0.10


def test_one_bandwidth_for_all_bytes_would_not_do():
    """A byte of K/V costs more than one of weights: two models of multi-head attention say so."""
    made = fit(npu_rates())
    assert made.cache > 2 * made.weights


def test_a_shape_of_its_own_is_not_moved():
    made = fit(npu_rates())
    assert made.residual((2, 64, 64, 64, 128, 1000)) == pytest.approx(1.0, abs=1e-6)
    assert made.residual(npu_rates()[0].shape) != pytest.approx(1.0, abs=1e-3)
