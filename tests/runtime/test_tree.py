"""Trees of drafts and drafts made beside the target: other ways to the same tokens, and to the same distribution."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError, fail
from edgec.compiler.runtime import token_tree
from edgec.compiler.runtime.branches import OneByOne, SideBySide
from edgec.compiler.runtime.decoder_inputs import MASKED, Branching, mask, tree_mask
from edgec.compiler.runtime.draft_ahead import DraftAhead
from edgec.compiler.runtime.draft_growth import Growth
from edgec.compiler.runtime.sample import Sampling
from edgec.compiler.runtime.speculate import Decoder
from edgec.compiler.runtime.token_tree import ROOT, TokenTree

from .toys import Toy, TreeToy, chi_square, exact

DRAFTS = pytest.mark.parametrize("kind", [Toy, TreeToy], ids=["one by one", "side by side"])
FORMS = [{"tree": 6}, {"overlap": True}, {"tree": 6, "overlap": True}, {"tree": 5, "overlap": True, "lookup": True}]


@pytest.fixture
def patient(monkeypatch):
    """The target takes as long as the draft needs."""
    monkeypatch.setattr(DraftAhead, "stop", late)


STOP = DraftAhead.stop


def late(self, stood, token):
    """All outcomes are prepared before the target is done."""
    self._idle.wait()
    STOP(self, stood, token)


def run(target, draft, k, prompt, tokens, **settings):
    decoder = Decoder(target, draft, k, slots=8, **settings)
    made = list(itertools.chain.from_iterable(decoder.generate(prompt, tokens)))
    return made, decoder.stats


@DRAFTS
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("k", [1, 3])
def test_greedy_equals_the_target_alone(form, k, share, kind):
    for seed in range(3):
        prompt = [1, 2, 3, 4, 5][: 2 + seed]
        alone, _ = run(Toy(seed), None, 0, prompt, 50)
        target = TreeToy(seed)
        draft = kind(seed + 100, like=target, share=share)
        together, stats = run(target, draft, k, prompt, 50, **form)
        assert together == alone
        text = prompt + together
        assert target.ids == text[:-1]  # what stands is in the caches, and no branch
        assert draft.ids == text[: len(draft.ids)]
        assert target.slots == getattr(draft, "slots", []) == []
        assert stats.rounds + stats.accepted == 50


def test_a_tree_costs_k_calls_of_the_draft_and_one_of_the_target():
    target = TreeToy(0)
    draft = TreeToy(1, like=target, share=0.5)
    _, stats = run(target, draft, 3, [1, 2, 3], 40, tree=7)
    assert len(target.calls) == 1 + stats.rounds
    assert max(target.calls) == 8
    assert len(draft.calls) <= 3 * stats.rounds
    chained = run(TreeToy(0), TreeToy(1, like=target, share=0.5), 3, [1, 2, 3], 40)[1]
    assert stats.rounds < chained.rounds


@DRAFTS
def test_the_draft_is_ready_where_it_had_time(kind, patient):
    target = TreeToy(0)
    draft = kind(1, like=target, share=1.0)
    _, stats = run(target, draft, 3, [1, 2, 3], 60, overlap=True)
    assert stats.ready >= stats.rounds - 2  # the first has none before it, the last may be of one token
    alone = run(TreeToy(0), kind(1, like=target, share=1.0), 3, [1, 2, 3], 60)[1]
    assert alone.ready == 0
    assert stats.rounds == alone.rounds


@DRAFTS
@pytest.mark.parametrize(("context", "draft_context"), [(9, 200), (11, 200), (14, 200), (200, 9), (14, 10)])
def test_it_stops_where_the_context_ends(context, draft_context, kind, patient):
    alone, _ = run(Toy(5, context=context), None, 0, [1, 2, 3], 20)
    target = TreeToy(5, context=context)
    together, _ = run(
        target, kind(6, context=draft_context, like=target, share=0.9), 4, [1, 2, 3], 20, tree=6, overlap=True
    )
    assert together == alone


@pytest.mark.parametrize(("wide", "narrow"), [("target", "draft"), ("draft", "target")])
def test_vocabularies_padded_to_different_sizes(wide, narrow, patient):
    sizes = {wide: 9, narrow: 7}
    alone, _ = run(Toy(4, vocab=sizes["target"]), None, 0, [1, 2], 40)
    target = TreeToy(4, vocab=sizes["target"])
    draft = TreeToy(5, vocab=sizes["draft"], like=target, share=0.9)
    assert run(target, draft, 3, [1, 2], 40, tree=6, overlap=True, lookup=True)[0] == alone


def sampled(form, kind, sampling, samples=1000):
    base = Toy(11, vocab=5)
    counts = Counter()
    for seed in range(samples):
        draft = kind(12, vocab=5, like=base, share=0.5)
        settings = {"sampling": sampling, "seed": seed, "outcomes": 5, **form}  # of 25
        made, _ = run(TreeToy(11, vocab=5), draft, 2, [1, 2], 3, **settings)
        counts[tuple(made)] += 1
    return chi_square(counts, exact(base, [1, 2], 3, sampling), samples)


CASES = [(form, Sampling(1.0)) for form in FORMS] + [(FORMS[0], Sampling(1.5, top_k=3))]


@pytest.mark.parametrize(("form", "sampling"), CASES, ids=str)
def test_sampling_keeps_the_targets_distribution(form, sampling, patient):
    assert sampled(form, TreeToy, sampling) < 3.5


@pytest.mark.parametrize("wrong", ["accept always", "a child is tried against p again"])
def test_the_distribution_test_sees_wrong_rules(monkeypatch, wrong):
    right = token_tree.rest_after

    def rest_after(token, p, q, random):
        rest = right(token, p, q, random)
        return None if wrong == "accept always" or rest is None else p

    monkeypatch.setattr(token_tree, "rest_after", rest_after)
    assert sampled({"tree": 6}, TreeToy, Sampling(1.0)) > 6


def test_the_same_seed_gives_the_same_text(monkeypatch):
    """Whether a tree was ready or not: what is drawn for a place of the text does not hang on when."""

    def one(seed, **form):
        target = TreeToy(0)
        draft = TreeToy(1, like=target, share=0.5)
        return run(target, draft, 3, [1, 2], 30, sampling=Sampling(1.0), seed=seed, tree=6, **form)

    hurried = one(5, overlap=True)[0]
    monkeypatch.setattr(DraftAhead, "stop", late)
    ahead, stats = one(5, overlap=True)
    assert stats.ready
    assert ahead == hurried == one(5)[0]
    assert ahead != one(6)[0]


def test_an_error_of_the_draft_beside_the_target_is_the_runs(patient):
    class Broken(TreeToy):
        def grow(self, ids, parents):
            fail("E0803", "the draft fell over", kind=EngineError)

    target = TreeToy(0)
    with pytest.raises(EngineError, match="the draft fell over"):
        run(target, Broken(1, like=target, share=1.0), 1, [1, 2, 3], 20, overlap=True)


def grown(scores, size, calls, siblings=True):
    """The paths of a greedy tree; `scores(path)`: a row."""
    tree = TokenTree()
    growth = Growth(tree, ROOT, size, calls, siblings, Sampling(), np.random.default_rng(0))
    asked = 0
    while (node := growth.wanted()) is not None:
        asked += 1
        growth.take(node, np.log(scores([tree.nodes[one].token for one in tree.path(node)])))
    return [tuple(tree.nodes[one].token for one in tree.path(node)) for node in range(len(tree.nodes))], asked


def test_growth_takes_the_likeliest_paths():
    """The first token is taken to stand with the root of its probability, the others share the rest."""

    def scores(path):
        return np.array([0.34, 0.335, 0.325]) if not path or path[-1] == 0 else np.array([0.05, 0.05, 0.9])

    assert grown(scores, 5, 2) == ([(0,), (0, 0), (1,), (2,), (0, 1)], 2)
    assert grown(scores, 3, 3, siblings=False) == ([(0,), (0, 0), (0, 0, 0)], 3)
    assert grown(scores, 4, 3) == ([(0,), (0, 0), (1,), (2,)], 3)  # 0.58, 0.34, 0.21, 0.21; (0, 0, 0) has 0.20


@DRAFTS
@pytest.mark.parametrize("tree", [0, 6])
def test_more_calls_beside_the_target_leave_fewer_to_wait_for(kind, tree):
    """The clock is given: so many calls of the draft beside each of the target's."""
    alone, _ = run(Toy(0), None, 0, [1, 2, 3], 60)
    waited, ready = [], []
    for pace in (1, 4, 16, 64):
        target = TreeToy(0)
        draft = kind(1, like=target, share=0.8)
        together, stats = run(target, draft, 3, [1, 2, 3], 60, overlap=True, tree=tree, pace=pace, outcomes=2)
        assert together == alone
        assert len(draft.calls) <= stats.rounds * pace + stats.waited
        waited.append(stats.waited)
        ready.append(stats.ready / stats.rounds)
    assert waited[0] > 2 * waited[-1]
    assert ready[-1] > 0.7 > ready[0]


def test_the_target_does_not_wait_for_a_token_that_is_unlikely_to_stand(monkeypatch):
    def waited(**settings):
        target = TreeToy(0, vocab=40)
        draft = Toy(1, vocab=40, like=target, share=0.2)
        made, stats = run(target, draft, 4, [1, 2, 3], 60, overlap=True, pace=3, **settings)
        return stats.waited, made

    less, text = waited()
    drawn, sampled = waited(sampling=Sampling(1.0))
    monkeypatch.setattr(Decoder, "_worth", lambda self, chance: True)
    more, same = waited()
    assert less < more
    assert text == same
    assert (drawn, sampled) == waited(sampling=Sampling(1.0))  # a drawn tree is always made to its end


def test_the_mask_of_a_tree_shows_each_slot_its_own_path():
    """Text of 3; slots 0 and 1 in the cache, 2 below 0 and 3 below 2 new, in a bucket of 4 slots over 6 past."""
    branching = Branching(3, [-1, -1, 0, 2])
    paths = branching.paths()[-2:]
    assert paths == [[0, 2], [0, 2, 3]]
    seen = tree_mask(paths, slots=4, length=5, past=6, base=3) == 0
    assert [list(np.flatnonzero(row)) for row in seen] == [[0, 1, 2, 3, 6], [0, 1, 2, 3, 6, 7]]
    chain = Branching(5, [-1, 0]).paths()
    assert np.array_equal(tree_mask(chain, 4, 5, 6, 5), mask(4, 5, 6)[:2])
    assert tree_mask(chain, 4, 5, 6, 5).min() == MASKED


@pytest.mark.parametrize("reader", [SideBySide, OneByOne])
def test_readers_score_nodes_and_keep_paths(reader):
    model = TreeToy(3)
    model.forward([1, 2])
    tree = TokenTree()
    a, b = tree.add(3, ROOT), tree.add(4, ROOT)
    c, d = tree.add(5, a), tree.add(6, b)
    below = reader(model)
    rows = below.rows(tree, [c, d])
    assert np.array_equal(rows, np.array([model.table[3, 5], model.table[4, 6]], np.float32))
    below.keep([b, d])
    assert model.ids == [1, 2, 4, 6]
    below = reader(model)
    model.context = 5
    assert below.rows(tree, [a, c]) is None or reader is OneByOne


def test_parts_of_a_tree():
    tree = TokenTree()
    a = tree.add(1, ROOT, 0.5)
    b, c = tree.add(2, a, 0.25), tree.add(3, ROOT, 0.2)
    d = tree.add(4, b, 0.2)
    tree.likely = {ROOT: [], a: [(2, 0.5)], b: []}
    below = tree.below(a)
    assert (below.tokens, below.parents, [node.value for node in below.nodes]) == ([2, 4], [-1, 0], [0.5, 0.4])
    assert below.likely.keys() == {ROOT, 0}
    assert tree.cut(2, 9).tokens == [1, 2, 3]
    assert tree.cut(9, 2).tokens == [1, 2]
    assert (tree.path(d), tree.depths, tree.chain, below.chain) == ([a, b, d], [1, 2, 1, 3], False, True)
    assert tree.child(ROOT, 3) == c
