"""The distribution of one step."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.runtime.sample import Sampling, rest_after

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32))


def test_temperature_zero_takes_the_first_of_the_largest():
    np.testing.assert_array_equal(Sampling().distribution(np.array([1.0, 3.0, 3.0])), [0, 1, 0])


def test_temperature_one_is_softmax():
    np.testing.assert_allclose(Sampling(1.0).distribution(LOGITS), np.exp(LOGITS), rtol=1e-6)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0, top_p=0.4), [1]),  # 0.4 reaches 0.4 alone
        (Sampling(1.0, top_p=0.41), [1, 3]),
        (Sampling(1.0, top_p=0.86), [0, 1, 3, 4]),
        (Sampling(1.0, top_k=2), [1, 3]),
        (Sampling(1.0, top_p=0.99, top_k=1), [1]),
        (Sampling(1.0, top_p=0.5, top_k=3), [1, 3]),  # top-k first: 0.4 of 0.85 is below one half
    ],
)
def test_cuts(sampling, kept):
    p = sampling.distribution(LOGITS)
    assert np.flatnonzero(p).tolist() == kept
    np.testing.assert_allclose(p[kept], np.exp(LOGITS[kept]) / np.exp(LOGITS[kept]).sum(), rtol=1e-6)


def test_extreme_logits_and_temperatures_stay_numbers():
    p = Sampling(1e-6).distribution(np.array([-1e4, 3e4, 3e4 - 1.0], np.float32))
    np.testing.assert_array_equal(p, [0, 1, 0])


@pytest.mark.parametrize(
    "settings", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}]
)
def test_settings_out_of_range(settings, golden_error):
    with pytest.raises(PlanError) as caught:
        Sampling(**settings)
    assert caught.value.diagnostics[0].code == "E0919"
    if settings == {"top_p": 1.1}:
        golden_error("E0919", caught.value)


def test_equal_distributions_reject_nothing():
    """Also when rounding puts q a hair above p and nothing is left to draw from."""
    p = np.array([0.5, 0.5])
    assert rest_after(0, p, np.nextafter(p, 1), np.random.default_rng(0)) is None
