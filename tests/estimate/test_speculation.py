"""The k that brings most, from the acceptance and what a drafted token costs."""

import pytest
from edgec.compiler.estimate.speculation import MOST, acceptance_for, best_k, drafts, gain, overlap, tokens_per_round
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


@given(st.floats(0.01, 0.99), st.integers(1, 6))
def test_a_tree_without_siblings_is_the_chain_and_no_tree_is_worse(acceptance, k):
    chain = drafts(acceptance, k)
    assert chain.tokens == pytest.approx(tokens_per_round(acceptance, k))
    sizes = [drafts(acceptance, k, size).tokens for size in range(k, k + 8)]
    assert sizes == sorted(sizes)
    assert chain.tokens - 1e-9 <= sizes[0]
    assert all(0 <= chain.ready(n) <= chain.ready(n + 1) <= 1 + 1e-9 for n in range(6))


@pytest.mark.parametrize(("k", "tree", "counted"), [(3, 0, 2.388), (3, 8, 2.819), (4, 15, 3.137), (6, 15, 3.459)])
def test_tokens_of_a_tree_as_counted_on_the_example_pair(k, tree, counted):
    assert drafts(0.661, k, tree).tokens == pytest.approx(counted, rel=0.04)


@pytest.mark.parametrize(
    ("k", "tree", "outcomes", "counted"), [(3, 0, 24, 0.876), (3, 8, 24, 0.774), (4, 15, 32, 0.778)]
)
def test_outcomes_that_come_as_counted_on_the_example_pair(k, tree, outcomes, counted):
    assert drafts(0.661, k, tree).ready(outcomes) == pytest.approx(counted, rel=0.04)


def test_a_round_of_both_lanes_takes_the_longer_one():
    shape = drafts(0.7, 3)
    fast = overlap(shape, 3, verify=10.0, token=0.1, batch=None, most=32)
    assert (fast.found, fast.missed, fast.outcomes) == (10.0, pytest.approx(10.3), 32)
    slow = overlap(shape, 3, verify=1.0, token=2.0, batch=None, most=32)
    assert (slow.found, slow.missed, slow.outcomes) == (6.0, 7.0, 1)
    assert fast.found <= fast.round <= fast.missed
    batched = overlap(shape, 3, verify=10.0, token=2.0, batch=lambda n: 1 + n / 16, most=32)
    assert (batched.found, batched.outcomes) == (10.0, 16)  # 4 x 2 fit, 4 x 3 do not
    late = overlap(shape, 3, verify=1.0, token=2.0, batch=lambda n: 2.0, most=32)
    assert (late.found, late.outcomes) == (8.0, 1)
