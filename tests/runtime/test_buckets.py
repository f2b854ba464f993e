"""The plan of calls is the cheapest there is, and fits."""

from __future__ import annotations

import itertools

import pytest
from edgec.compiler.runtime.bucket_choice import CALL_COST, Buckets
from hypothesis import given, settings
from hypothesis import strategies as st


def rows(tokens, contexts):
    return [{"name": f"t{t}_c{c}", "tokens": t, "context": c} for t in tokens for c in contexts]


@pytest.mark.parametrize(
    ("count", "calls"),
    [
        (1, [1]),
        (2, [4]),  # one padded call before two
        (4, [4]),
        (5, [4, 1]),
        (16, [4, 4, 4, 4]),
        (24, [128]),  # 160 against 6 * 36
        (127, [128]),
        (128, [128]),
        (130, [128, 4]),
        (300, [128, 128, 128]),
    ],
)
def test_the_rule_by_example(count, calls):
    assert Buckets(rows([1, 4, 128], [512]), 512).plan(count, 0) == calls


@settings(max_examples=150, deadline=None)
@given(
    st.sets(st.integers(1, 9), min_size=1, max_size=3),
    st.lists(st.integers(10, 24), min_size=1, max_size=2),
    st.integers(1, 14),
    st.integers(0, 24),
)
def test_no_other_sequence_is_cheaper(tokens, contexts, count, length):
    buckets = Buckets(rows(tokens, contexts), 24)

    def fits(calls):
        at = length
        for call in calls:
            if at + call > max(contexts):
                return False
            at += call
        return True

    possible = [
        calls
        for size in range(1, count + 1)
        for calls in itertools.product(tokens, repeat=size)
        if sum(calls[:-1]) < count <= sum(calls) and fits(calls)
    ] if count <= 5 else None  # fmt: skip
    plan = buckets.plan(count, length)
    if plan is None:
        assert not possible
        return
    assert fits(plan)
    assert sum(plan[:-1]) < count <= sum(plan)  # only the last call is padded
    for call, at in zip(plan, itertools.accumulate([length, *plan]), strict=False):
        name = buckets.choose(call, at)
        assert name is not None
        context = buckets.entries[name]["context"]
        assert at + call <= context
        assert all(at + call > other for other in contexts if other < context)  # the smallest that holds it
    if possible is not None:
        assert sum(CALL_COST + c for c in plan) == min(sum(CALL_COST + c for c in calls) for calls in possible)


def test_near_the_end_smaller_buckets_take_over():
    buckets = Buckets(rows([1, 4], [16]), 16)
    assert buckets.plan(3, 13) == [1, 1, 1]
    assert buckets.plan(4, 13) is None
    assert buckets.choose(4, 13) is None


def test_one_dynamic_graph():
    buckets = Buckets([{"name": "main", "tokens": None, "context": None}], 512)
    assert (buckets.dynamic, buckets.context, buckets.largest) == ("main", 512, None)
