"""Speculation changes how tokens are made, not which: equal tokens greedily, equal distribution when sampling."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.runtime import token_tree
from edgec.compiler.runtime.prompt_lookup import PromptLookup
from edgec.compiler.runtime.sample import Sampling
from edgec.compiler.runtime.speculate import Decoder

from .toys import Toy, chi_square, exact


def run(target, draft, k, prompt, tokens, **settings):
    decoder = Decoder(target, draft, k, **settings)
    made = list(itertools.chain.from_iterable(decoder.generate(prompt, tokens)))
    return made, decoder.stats


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_equals_the_target_alone(k, share, seed):
    prompt = [1, 2, 3, 4, 5][: 1 + seed]
    alone, base = run(Toy(seed), None, 0, prompt, 50)
    target = Toy(seed)
    draft = Toy(seed + 100, like=target, share=share)
    together, stats = run(target, draft, k, prompt, 50)
    assert together == alone
    assert len(alone) == stats.tokens == base.tokens == base.rounds == 50
    assert stats.drafted >= stats.accepted
    assert stats.tokens == stats.rounds + stats.accepted
    if share == 1.0:
        assert stats.rounds == math.ceil(50 / (k + 1))
        assert stats.accepted == stats.drafted
    # what is known stands in both caches, and nothing else
    text = prompt + together
    assert target.ids == text[:-1]
    assert draft.ids == text[: len(draft.ids)]


def test_a_round_verifies_in_one_call_and_the_draft_catches_up():
    target = Toy(0)
    draft = Toy(1, like=target, share=1.0)
    run(target, draft, 3, [1, 2, 3], 8)
    assert target.calls == [2, 4, 4]  # the prompt but its last token, then two rounds
    assert draft.calls == [3, 1, 1, 2, 1, 1]  # after a round it has not read its last draft and the bonus token


@pytest.mark.parametrize("speculates", [False, True])
def test_eos_ends_the_text_inside_a_round(speculates):
    target = Toy(3)
    whole, _ = run(Toy(3), None, 0, [1, 2], 30)
    eos = whole[4]
    end = whole.index(eos) + 1
    draft = Toy(9, like=target, share=1.0) if speculates else None
    made, stats = run(target, draft, 3 if speculates else 0, [1, 2], 30, eos={eos})
    assert made == whole[:end]
    assert stats.tokens == end


@pytest.mark.parametrize(("context", "draft_context"), [(9, 200), (10, 200), (11, 200), (200, 9), (12, 10)])
def test_it_stops_where_the_context_ends(context, draft_context):
    """A cache of C positions scores C tokens: the text grows to C + 1."""
    alone, _ = run(Toy(5, context=context), None, 0, [1, 2, 3], 20)
    target = Toy(5, context=context)
    draft = Toy(6, context=draft_context, like=target, share=0.9)
    together, _ = run(target, draft, 4, [1, 2, 3], 20)
    assert together == alone
    assert len(together) == min(20, context + 1 - 3)


def test_fewer_tokens_than_a_round_makes():
    for tokens in range(1, 6):
        target = Toy(2)
        made, stats = run(target, Toy(3, like=target, share=1.0), 3, [1], tokens)
        assert len(made) == tokens
        assert stats.drafted < tokens + 3


@pytest.mark.parametrize(("wide", "narrow"), [("target", "draft"), ("draft", "target")])
def test_vocabularies_padded_to_different_sizes(wide, narrow):
    """The wider one never loses a token to the other, nor gets one it does not know."""
    sizes = {wide: 9, narrow: 7}
    alone, _ = run(Toy(4, vocab=sizes["target"]), None, 0, [1, 2], 40)
    target = Toy(4, vocab=sizes["target"])
    draft = Toy(5, vocab=sizes["draft"], like=target, share=0.9)
    together, _ = run(target, draft, 3, [1, 2], 40)
    assert together == alone


def test_an_empty_prompt():
    with pytest.raises(PlanError, match="the prompt is empty") as caught:
        run(Toy(0), None, 0, [], 3)
    assert caught.value.diagnostics[0].code == "E0913"


def sampled(k, sampling, samples=3000, tokens=3):
    base = Toy(11, vocab=5)
    counts = Counter()
    for seed in range(samples):
        target, draft = Toy(11, vocab=5), Toy(12, vocab=5, like=base, share=0.5)
        made, _ = run(target, draft, k, [1, 2], tokens, sampling=sampling, seed=seed)
        counts[tuple(made)] += 1
    return chi_square(counts, exact(base, [1, 2], tokens, sampling), samples)


SETTINGS = [Sampling(1.0), Sampling(0.7, top_p=0.9), Sampling(1.5, top_k=3)]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_sampling_keeps_the_targets_distribution(k, sampling):
    assert sampled(k, sampling) < 3.5


@pytest.mark.parametrize("wrong", ["accept always", "draw from p after a rejection"])
def test_the_distribution_test_sees_wrong_rules(monkeypatch, wrong):
    def rest_after(token, p, q, random):
        if wrong == "accept always" or p[token] >= q[token] or random.random() * q[token] < p[token]:
            return None
        return p

    monkeypatch.setattr(token_tree, "rest_after", rest_after)
    assert sampled(2, Sampling(1.0)) > 6


def test_the_same_seed_gives_the_same_text():
    def one(seed):
        target = Toy(0)
        return run(target, Toy(1, like=target, share=0.5), 3, [1, 2], 30, sampling=Sampling(1.0), seed=seed)[0]

    assert one(5) == one(5)
    assert one(5) != one(6)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_lookup_changes_no_token(k, seed):
    """A toy's greedy text soon repeats itself: what stood before is proposed, and the text is the target's own."""
    prompt = [1, 2, 3, 4]
    alone, _ = run(Toy(seed), None, 0, prompt, 80)
    target = Toy(seed)
    draft = Toy(seed + 100, like=target, share=0.0)
    together, stats = run(target, draft, k, prompt, 80, lookup=True)
    assert together == alone
    assert target.ids == (prompt + together)[:-1]
    assert stats.looked_up >= stats.found > 0
    assert stats.rounds <= run(Toy(seed), Toy(seed + 100, like=Toy(seed), share=0.0), k, prompt, 80)[1].rounds


def test_lookup_samples_what_the_target_samples():
    """Proposals that are certain stand with the target's probability: what is made has the target's distribution."""
    settings = {"sampling": Sampling(temperature=1.0)}
    counts = {True: Counter(), False: Counter()}
    words = [1, 2, 3, 4, 5, 0, 2, 2, 5, 1, 3, 1]
    prompt = [*words, 4, *words]  # twelve tokens alike: `4 1` is proposed at once
    for seed in range(1500):
        target = Toy(4, vocab=6)
        made, stats = run(target, Toy(7, vocab=6), 2, prompt, 3, seed=seed, lookup=True, **settings)
        assert stats.looked_up
        counts[True][tuple(made[:2])] += 1
        made, _ = run(Toy(4, vocab=6), None, 0, prompt, 3, seed=seed + 10_000, **settings)
        counts[False][tuple(made[:2])] += 1
    pairs = set(counts[True]) | set(counts[False])
    distance = sum(abs(counts[True][pair] - counts[False][pair]) for pair in pairs) / 3000
    assert distance < 0.09


def test_lookup_is_used_where_it_guesses_as_well_as_the_draft():
    lookup = PromptLookup()
    text = [1, 2, 3, 4, 9, 1, 2, 3]
    lookup.told(False, 1, [])
    assert lookup.propose(text, 3) == []  # not known yet: the draft is asked
    lookup.told(False, 1, [4, 9])  # it would have been right twice
    assert lookup.propose(text, 3) == [4, 9, 1]
    for _ in range(6):
        lookup.told(True, 0, [5])
    assert lookup.propose(text, 3) == []
    assert lookup.propose([7, *range(20), 5, *range(20)], 2) == [5, 0]  # twenty tokens alike are trusted
    assert PromptLookup().propose([6, 8] * 9, 5) == [6, 8, 6, 8, 6]  # a text that goes round goes on
