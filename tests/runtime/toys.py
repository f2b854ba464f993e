"""Language models of a table, whose logits depend on the last two tokens, and statistics of what they sample."""

from __future__ import annotations

import itertools
import math

import numpy as np


class Toy:
    """Logits depend on the last two tokens of the cache, so a cache that is off by one shows."""

    def __init__(self, seed, vocab=7, context=200, like=None, share=0.0):
        table = np.random.default_rng(seed).normal(size=(vocab, vocab, vocab)) * 2
        if like is not None:
            n = min(vocab, like.vocab)
            table[:n, :n, :n] = share * like.table[:n, :n, :n] + (1 - share) * table[:n, :n, :n]
        self.table, self.vocab, self.context = table, vocab, context
        self.ids = []
        self.calls = []

    @property
    def length(self):
        return len(self.ids)

    def forward(self, ids):
        assert ids
        assert all(token < self.vocab for token in ids)
        self.calls.append(len(ids))
        rows = []
        for token in ids:
            before = self.ids[-1] if self.ids else 0
            self.ids.append(token)
            rows.append(self.table[before, token])
        assert len(self.ids) <= self.context
        return np.array(rows, np.float32)

    def rollback(self, length):
        assert 0 <= length <= len(self.ids)
        del self.ids[length:]

    def reset(self):
        self.ids = []

    def close(self):
        self.ids = []


class TreeToy(Toy):
    """A toy that reads many branches in a call, as a chain of parts does."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.slots = []  # (token, parent) behind the text

    @property
    def length(self):
        return len(self.ids) + len(self.slots)

    def grow(self, ids, parents):
        assert ids
        assert all(token < self.vocab for token in ids)
        self.calls.append(len(ids))
        rows = []
        for token, parent in zip(ids, parents, strict=True):
            assert -1 <= parent < len(self.slots)
            before = self.slots[parent][0] if parent >= 0 else self.ids[-1] if self.ids else 0
            self.slots.append((token, parent))
            rows.append(self.table[before, token])
        assert self.length <= self.context
        return np.array(rows, np.float32)

    def keep(self, slots):
        above = -1
        for slot in slots:
            token, parent = self.slots[slot]
            assert parent == above  # a path
            self.ids.append(token)
            above = slot
        self.slots = []

    def forward(self, ids):
        assert not self.slots
        return super().forward(ids)

    def rollback(self, length):
        assert not self.slots
        super().rollback(length)


def exact(target, prompt, tokens, sampling):
    """Probability of every continuation, by the definition."""
    out = {}
    for path in itertools.product(range(target.vocab), repeat=tokens):
        text, p = list(prompt), 1.0
        for token in path:
            p *= sampling.distribution(target.table[text[-2], text[-1]])[token]
            text.append(token)
        if p > 0:
            out[path] = p
    return out


def chi_square(counts, expected, samples):
    """z of the chi-square statistic (Wilson-Hilferty), cells below 5 expected pooled."""
    cells, rest = [], [0.0, 0.0]
    for path, p in expected.items():
        if p * samples >= 5:
            cells.append((counts.get(path, 0), p * samples))
        else:
            rest = [rest[0] + counts.get(path, 0), rest[1] + p * samples]
    if rest[1] >= 5:
        cells.append((rest[0], rest[1]))
    assert set(counts) <= set(expected)  # what cannot come did not
    statistic = sum((have - want) ** 2 / want for have, want in cells)
    free = len(cells) - 1
    return ((statistic / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))
