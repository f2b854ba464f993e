"""The k that brings most, from the acceptance and what a drafted token costs."""

import pytest
from edgec.compiler.estimate.speculation import MOST, acceptance_for, best_k, gain, tokens_per_round
from hypothesis import given
from hypothesis import strategies as st


def test_tokens_a_round_are_the_sum_of_the_chances():
    assert tokens_per_round(0.5, 3) == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert tokens_per_round(1.0, 3) == 4
    assert tokens_per_round(0.0, 3) == 1


@pytest.mark.parametrize(
    ("acceptance", "cost", "k"),
    [(0.8, 0.2, 4), (0.8, 0.05, 8), (0.5, 0.2, 1), (0.9, 0.01, 15), (0.3, 0.9, 1), (0.0, 0.1, 1)],
)
def test_k_by_example(acceptance, cost, k):
    assert best_k(acceptance, cost) == k


@given(st.floats(0, 0.999), st.floats(0.001, 2))
def test_no_k_gains_more(acceptance, cost):
    best = gain(acceptance, best_k(acceptance, cost), cost)
    assert all(gain(acceptance, k, cost) <= best for k in range(1, MOST + 1))


def test_the_acceptance_behind_a_gain_gives_it():
    assert gain(acceptance_for(1.8, 3, 0.2), 3, 0.2) == pytest.approx(1.8)
