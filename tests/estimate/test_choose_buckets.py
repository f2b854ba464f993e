"""Buckets chosen for a histogram: they save time, hold the bounds, and contain what a round of speculation needs."""

import pytest
from edgec.compiler.estimate.choose_buckets import GRAPHS, LARGEST, TABLES, choose_buckets
from edgec.compiler.estimate.histogram import DEFAULT, Histogram
from edgec.compiler.estimate.lane_speed import chip_speed
from edgec.compiler.estimate.prefill import call_cost
from edgec.compiler.estimate.published import shape_of
from edgec.compiler.estimate.work import decoder_work
from edgec.compiler.plan.devices import devices


def chosen(model="llama-3_2-3b", context=2048, chip="snapdragon_8_gen_3", histogram=DEFAULT, waste=0.2, **more):
    work = decoder_work(model, shape_of(model), context, 0.5625, 1.0, 2.0)
    cost = call_cost(chip_speed(devices()[chip]), work)
    layers, hidden, heads, kv, inner, vocabulary = shape_of(model)
    edges = layers * (2 * (hidden + heads) + 2 * (hidden + kv) + 3 * (hidden + inner)) + hidden + vocabulary
    tables = TABLES * edges / work.parts[0].weights
    return choose_buckets(context, histogram, cost, work.bytes_read, waste, tables=tables, **more)


@pytest.mark.parametrize("model", ["qwen3-0_6b", "llama-3_2-1b", "llama-3_2-3b", "llama-3_1-8b"])
@pytest.mark.parametrize("context", [512, 2048, 4096])
@pytest.mark.parametrize("verify", [None, 4])
def test_a_quarter_of_the_time_is_saved(model, context, verify):
    """Against {1, 128} at the full context, on the default histogram."""
    found = chosen(model, context, verify=verify)
    assert found.last.cost.seconds <= 0.75 * found.plain.cost.seconds
    assert found.last.cost.waste <= 0.2
    assert found.last.cost.unfit == 0
    assert 1 in found.last.tokens
    assert max(found.last.context) == context
    graphs = [tokens for tokens, _ in found.last.shapes if tokens != verify]
    assert len(graphs) <= GRAPHS
    assert found.last.size <= LARGEST
    if verify is not None:
        assert verify in found.last.tokens


def test_prompts_of_one_length_get_a_bucket_for_them():
    found = chosen(histogram=Histogram(((30, 1.0),), "one"), waste=0.1)
    assert 32 in found.last.tokens
    assert found.last.cost.waste < 0.1


def test_what_the_plan_lists_is_kept():
    assert chosen(tokens=(1, 64)).last.tokens == (1, 64)
    assert chosen(contexts=(300, 2000)).last.context == (300, 2000)


@pytest.mark.parametrize("context", [2, 3, 5, 17, 130])
def test_small_contexts_have_buckets_that_fit(context):
    found = chosen("qwen3-0_6b", context)
    assert found.last.shapes
    assert all(tokens < c <= context for tokens, c in found.last.shapes)
    assert found.last.cost.unfit == 0
