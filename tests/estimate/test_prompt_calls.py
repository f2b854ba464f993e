"""The cheapest calls, against every sequence that there is."""

import itertools
import math

import pytest
from edgec.compiler.estimate.prompt_calls import Bucket, cheapest
from hypothesis import given, settings
from hypothesis import strategies as st

BUCKETS = st.lists(
    st.builds(Bucket, st.integers(1, 5), st.integers(6, 14), st.integers(1, 40).map(float)),
    min_size=1, max_size=5, unique_by=lambda one: one[:2],
)  # fmt: skip


def price(buckets, calls, past):
    total = 0.0
    for call in calls:
        past += call
        total += min((one.cost for one in buckets if one.tokens == call and past <= one.context), default=math.inf)
    return total


@settings(max_examples=120, deadline=None)
@given(BUCKETS, st.integers(1, 6), st.integers(0, 8))
def test_no_sequence_is_cheaper(buckets, count, past):
    sizes = sorted({one.tokens for one in buckets})
    prices = [
        price(buckets, calls, past)
        for many in range(1, count + 1)
        for calls in itertools.product(sizes, repeat=many)
        if sum(calls[:-1]) < count <= sum(calls)
    ]
    found = cheapest(buckets, count, past)
    if found is None:
        assert min(prices, default=math.inf) == math.inf
        return
    assert sum(found.tokens[:-1]) < count <= sum(found.tokens)
    assert price(buckets, found.tokens, past) == pytest.approx(found.cost)
    assert found.cost == pytest.approx(min(prices))


def test_a_prompt_grows_from_short_contexts_to_long_ones():
    buckets = [Bucket(4, 8, 1.0), Bucket(4, 16, 5.0), Bucket(8, 16, 9.0)]
    assert cheapest(buckets, 8) == ((4, 4), 2.0)
    assert cheapest(buckets, 12) == ((4, 4, 4), 7.0)
    assert cheapest(buckets, 17) is None
