"""Consecutive layers in shards: as equal as whole layers allow, none empty, what the CPU holds not counted."""

from __future__ import annotations

from itertools import pairwise

import pytest
from edgec.compiler.ir.annotations import DEVICE, SHARD
from edgec.compiler.ir.levels import Level
from edgec.compiler.partition.parts import partition
from edgec.compiler.partition.shards import boundaries, layer_of, layer_weights, mark_shards
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.lists(st.integers(1, 100), min_size=1, max_size=9)


def largest(sizes, starts):
    return max(sum(sizes[a:b]) for a, b in pairwise([*starts, len(sizes)]))


def every_cut(count, groups, first=0):
    """All first items of `groups` consecutive groups, by hand."""
    if groups == 1:
        return [[first]]
    return [[first, *rest] for at in range(first + 1, count - groups + 2) for rest in every_cut(count, groups - 1, at)]


@given(SIZES, st.data())
def test_no_other_cut_has_a_smaller_largest_group(sizes, data):
    groups = data.draw(st.integers(1, len(sizes)))
    starts = boundaries(sizes, groups)
    assert len(starts) == groups
    assert starts[0] == 0
    assert all(a < b for a, b in pairwise(starts))
    assert largest(sizes, starts) == min(largest(sizes, cut) for cut in every_cut(len(sizes), groups))


@pytest.mark.parametrize(
    ("name", "layer"),
    [("layers.3.mlp.up_proj", 3), ("layers.11.input_layernorm/rows", 11), ("lm_head", None), ("x.layers.2.y", 2)],
)
def test_the_layer_of_a_name(name, layer):
    assert layer_of(name) == layer


def test_what_is_placed_on_the_cpu_is_not_counted(stage):
    module = stage("target", "pycode-qwen3", 64, Level.COMPRESSED)
    whole = layer_weights(module, "npu")[1]
    for node in module.main.graph:
        if node.name == "embed_tokens":
            DEVICE.set(node, "cpu")
    without = layer_weights(module, "npu")[1]
    arch = module.arch
    assert whole[0] - without[0] == arch.vocab * arch.hidden
    assert whole[1:] == without[1:]


def test_each_shard_is_a_part_and_they_chain(stage):
    module = stage("target", "pycode-qwen3", 64, Level.STATIC, (1, 4))
    layers = module.arch.layers
    mark_shards(module, "npu", list(range(layers)))
    made = partition(module, "npu")
    assert [part.shard for part in made.parts] == list(range(layers))
    crossing = {(one.maker, one.reader, one.tensor) for one in made.transfers}
    names = [part.name for part in made.parts]
    assert crossing == {(a, b, f"layers.{i}.mlp_residual") for i, (a, b) in enumerate(pairwise(names))}
    first = next(iter(made.parts[0].graphs.values())).graph
    assert "input_ids" in {value.name for value in first.inputs}
    assert all(SHARD.get(node) is not None for node in first if node.name)
