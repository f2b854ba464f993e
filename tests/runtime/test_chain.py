"""A chain of parts over buckets gives the oracle's logits, whatever the layout, the cut and the way it is called."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError, PlanError
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.runtime.chain import ChainModel
from edgec.compiler.verify import part_errors

STATIC = [(1, 16), (4, 16), (8, 16), (1, 64), (4, 64), (8, 64)]
DYNAMIC = [(None, None)]
CASES = [
    ("ort", DYNAMIC, False),
    ("ort", STATIC, False),
    ("qnn", STATIC, False),
    ("qnn", STATIC, True),
    ("mixed", STATIC, False),
]
# root mean square relative to that of the logits; fp16 at every boundary of the qnn layout, K/V included
TOLERANCE = {"ort": 2e-6, "qnn": 2e-3, "mixed": 2e-3}


def difference(made: np.ndarray, expected: np.ndarray) -> float:
    assert made.shape == expected.shape
    return float(np.linalg.norm(made - expected) / np.linalg.norm(expected))


@pytest.fixture
def ids() -> list[int]:
    return np.random.default_rng(0).integers(0, 61, 64).tolist()


@pytest.mark.parametrize(("layout", "buckets", "split"), CASES)
def test_logits_are_the_oracles(toy, toy_module, ids, layout, buckets, split):
    bundle = toy(layout, buckets, split)
    model = ChainModel(bundle.manifest, "toy", bundle.open)
    expected = DecoderOracle(toy_module).forward(ids)
    sizes = [19, 1, 4, 3, 8, 1, 5, 1, 1, 21]
    assert sum(sizes) == 64
    made, done = [], 0
    for size in sizes:
        made.append(model.forward(ids[done : done + size]))
        done += size
        assert model.length == done
    assert difference(np.concatenate(made), expected) < TOLERANCE[layout]
    if split or layout == "mixed":
        assert {part for part, _bucket in bundle.sessions} == {"toy.cpu0", "toy.npu1"}


def test_lanes_compute_what_one_lane_computes(toy, ids):
    """A bundle made before schedules were written is one lane of its parts; the numbers are equal to the bit."""
    made = []
    for lanes in (2, 1):
        bundle = toy("mixed", STATIC)
        for bucket in bundle.manifest.models["toy"]["buckets"]:
            assert len(bucket["schedule"]["lanes"]) == 2
            if lanes == 1:
                del bucket["schedule"]
        made.append(ChainModel(bundle.manifest, "toy", bundle.open).forward(ids))
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize(("layout", "buckets", "split"), CASES)
def test_rollback_leaves_no_trace(toy, ids, layout, buckets, split):
    bundle = toy(layout, buckets, split)
    model = ChainModel(bundle.manifest, "toy", bundle.open)
    model.forward(ids[:10])
    straight = model.forward(ids[10:13])
    model.rollback(10)
    model.forward([5, 6, 7, 8, 9])  # a rejected stretch, longer than what follows, across the small context
    model.forward([1, 2, 3])
    model.rollback(10)
    np.testing.assert_array_equal(model.forward(ids[10:13]), straight)
    with pytest.raises(ValueError, match="cannot roll back from 13 positions to 14"):
        model.rollback(14)
    model.reset()
    assert model.length == 0


def test_the_cache_moves_between_buckets(toy, toy_module, ids):
    """Context 16 to 64 and back, with steps of one and of four tokens in turn."""
    bundle = toy("qnn", STATIC)
    model = ChainModel(bundle.manifest, "toy", bundle.open)
    oracle = DecoderOracle(toy_module)
    for size in (8, 4, 1, 4, 1, 4, 1):
        at = oracle.length
        assert difference(model.forward(ids[at : at + size]), oracle.forward(ids[at : at + size])) < 2e-3
    model.rollback(6)
    oracle.rollback(6)
    assert difference(model.forward(ids[6:10]), oracle.forward(ids[6:10])) < 2e-3
    assert {bucket for _part, bucket in bundle.sessions} == {"t8_c16", "t4_c16", "t1_c16", "t4_c64", "t1_c64"}


def test_a_step_of_one_token_goes_through_the_step_bucket(toy, ids):
    bundle = toy("ort", STATIC)
    model = ChainModel(bundle.manifest, "toy", bundle.open)
    model.forward(ids[:8])
    model.step = 4
    for at in (8, 9, 10):
        model.forward(ids[at : at + 1])
    calls = {bucket: session.calls for (_part, bucket), session in bundle.sessions.items()}
    assert calls == {"t8_c16": 1, "t4_c16": 3}
    assert model.length == 11  # padding took no position


def test_the_end_of_the_context(toy, ids):
    bundle = toy("ort", [(4, 16), (8, 16)])
    model = ChainModel(bundle.manifest, "toy", bundle.open)
    model.forward(ids[:12])
    assert model.fits(4)
    assert not model.fits(5)
    model.forward(ids[12:13])
    assert not model.fits(1)  # three positions are left, a bucket wants four
    with pytest.raises(PlanError, match="holds 13 of 16 positions: 1 more tokens do not fit") as caught:
        model.forward([1])
    assert caught.value.diagnostics[0].code == "E0912"
    model.rollback(12)
    assert model.forward(ids[12:16]).shape == (4, 61)


def test_dynamic_context_ends_too(toy, ids):
    bundle = toy("ort", DYNAMIC)
    model = ChainModel(bundle.manifest, "toy", bundle.open)
    model.forward(ids)
    assert not model.fits(1)
    with pytest.raises(PlanError, match="E0912"):
        model.forward([1])


def test_a_token_outside_the_vocabulary(toy, golden_error):
    bundle = toy("ort", DYNAMIC)
    with pytest.raises(PlanError) as caught:
        ChainModel(bundle.manifest, "toy", bundle.open).forward([3, 61])
    golden_error("E0915", caught.value)


def test_a_gap_in_the_chain_is_named(toy, golden_error):
    bundle = toy("qnn", [(4, 16)], True)
    bundle.manifest.models["toy"]["buckets"][0] = {
        "name": "t4_c16", "tokens": 4, "context": 16, "parts": ["toy.npu1"]
    }  # fmt: skip
    with pytest.raises(PlanError) as caught:
        ChainModel(bundle.manifest, "toy", bundle.open).forward([1])
    golden_error("E0917", caught.value)


def test_another_order_of_axes_is_no_reshape(toy):
    """[3,1,8,12] and [3,1,12,8] have as many values: only the shape tells."""
    bundle = toy("qnn", [(4, 16)])
    bundle.manifest.models["toy"]["kv"]["layout"] = {
        "key": ["kv_heads", "batch", "position", "head_dim"],
        "value": ["kv_heads", "batch", "position", "head_dim"],
    }
    with pytest.raises(PlanError, match="the manifest's K/V layout gives") as caught:
        ChainModel(bundle.manifest, "toy", bundle.open).forward([1])
    assert caught.value.diagnostics[0].code == "E0917"


def test_nonsense_of_an_engine_is_not_passed_on(toy, golden_error):
    bundle = toy("ort", DYNAMIC)

    class Broken:
        def run(self, feeds):
            made = bundle.sessions["toy.npu0", "main"].run(feeds)
            made["logits"][0, 0, 3] = np.nan
            return made

        def close(self):
            return None

    def opener(manifest, part, bucket):
        bundle.open(manifest, part, bucket)
        return Broken()

    with pytest.raises(EngineError) as caught:
        ChainModel(bundle.manifest, "toy", opener).forward([1])
    golden_error("E0916", caught.value)


@pytest.mark.parametrize(("node", "compared"), [("embed_tokens", True), ("elsewhere", False)])
def test_what_crosses_is_verified_by_the_schedules_edge(toy, toy_module, ids, monkeypatch, node, compared):
    """The embedding's part has one output, and only the edge says which value of the float model that is."""
    bundle = toy("ort", DYNAMIC, True)
    (edge,) = bundle.manifest.models["toy"]["buckets"][0]["schedule"]["edges"]
    assert (edge["tensor"], edge["node"]) == ("inputs_embeds", "embed_tokens")
    edge["node"] = node
    monkeypatch.setattr(part_errors, "open_graph", bundle.open)
    monkeypatch.setattr(part_errors, "open_reference", lambda *_: None)
    found = part_errors.compare(bundle.manifest, "toy", toy_module, ids)
    assert (found["toy.cpu0"].max_error is not None) == compared
    assert found["toy.npu1"].max_error is not None
    assert found["toy.npu1"].max_error < 1e-4


@pytest.mark.parametrize(("layout", "buckets", "split"), CASES)
def test_a_tree_scores_each_path_and_keeps_one(toy, toy_module, ids, layout, buckets, split):
    """Two calls make a tree of three branches; each row is what its path alone gives, also across buckets."""
    bundle = toy(layout, buckets, split)
    model = ChainModel(bundle.manifest, "toy", bundle.open)

    def alone(text):
        return DecoderOracle(toy_module).forward(text)

    text, tokens = ids[:9], ids[20:26]
    parents = [-1, -1, 0, 0, 2, 1]
    model.forward(text)
    rows = np.concatenate([model.grow(tokens[:3], parents[:3]), model.grow(tokens[3:], parents[3:])])
    for node, row in enumerate(rows):
        path = [node]
        while parents[path[0]] >= 0:
            path.insert(0, parents[path[0]])
        expected = alone([*text, *(tokens[at] for at in path)])[-1:]
        assert difference(row[None], expected) < TOLERANCE[layout]
    model.keep([0, 2, 4])
    kept = [*text, tokens[0], tokens[2], tokens[4]]
    assert model.length == len(kept)
    assert difference(model.forward(ids[30:33]), alone([*kept, *ids[30:33]])[-3:]) < TOLERANCE[layout]
    model.grow(tokens[:2], [-1, -1])
    model.rollback(len(text))
    assert difference(model.forward(ids[40:42]), alone([*text, *ids[40:42]])[-2:]) < TOLERANCE[layout]


def test_a_tree_hangs_on_slots_that_are_there(toy, ids):
    bundle = toy("ort", DYNAMIC)
    model = ChainModel(bundle.manifest, "toy", bundle.open)
    model.forward(ids[:3])
    with pytest.raises(ValueError, match="not slots before their children"):
        model.grow([1, 2], [-1, 1])
    model.grow([1, 2], [-1, 0])
    with pytest.raises(ValueError, match="not behind"):
        model.keep([2])
    assert model.forward([5]).shape == (1, 61)
    assert model.length == 4  # the tree is forgotten
