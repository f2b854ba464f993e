"""Rounds of speculative decoding; with k = 0 the target decodes alone.

    text      t_0 .. t_{n-1}           caches hold a prefix of it, the target's all but t_{n-1}
    draft     d_1 .. d_k               one by one, after the draft has read what it has not seen
    verify    p_0 .. p_k = target([t_{n-1}, d_1 .. d_k])        one call; p_i scores what follows d_i
    accept    d_1 .. d_a as p_0 .. p_{a-1} allow; then one token of the target: in the place of d_{a+1}, or p_k's
    roll back both caches to the n + a positions that stand

Greedy: d_i stands if it is the largest of p_{i-1}. Sampling: see `sample`. Each round yields a + 1 tokens, so with
acceptance rate r it yields (1 - r^(k+1)) / (1 - r) of them on average.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..diagnostics.diagnostic import fail
from ..emit.engine_protocols import LanguageModel
from .language_model import feed, fits
from .prompt_lookup import PromptLookup
from .sample import Sampling, accept_or_replace, draw


@dataclass
class Stats:
    """What a run did. `rounds` are calls of the target after the prompt."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    looked_up: int = 0  # of the drafted, those found in the text
    found: int = 0  # of these, the accepted ones

    @property
    def tokens_per_round(self) -> float:
        """Tokens of the answer per call of the target."""
        return self.tokens / self.rounds if self.rounds else 0.0

    @property
    def acceptance(self) -> float:
        """Accepted tokens as a fraction of the drafted ones, 0 to 1."""
        return self.accepted / self.drafted if self.drafted else 0.0


@dataclass
class Decoder:
    """Continues a text by the target, helped by the draft if there is one.

    Both models start empty, or hold a beginning of the prompt that leaves its last token out.
    """

    target: LanguageModel
    draft: LanguageModel | None = None
    k: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    eos: Collection[int] = ()
    seed: int = 0
    lookup: bool = False  # drafts out of the text too
    stats: Stats = field(default_factory=Stats)

    def generate(self, prompt: Sequence[int], tokens: int) -> Iterator[list[int]]:
        """Yield the new tokens round by round until `tokens` are made, an EOS came (the last yielded), or the
        context is full."""
        if not prompt:
            fail(
                "E0913",
                "the prompt is empty, and the tokenizer adds no token to the beginning of a text",
                help="give a longer prompt",
            )
        if not fits(self.target, len(prompt) - self.target.length):
            message = f"the prompt has {len(prompt)} tokens, the context of the model {self.target.context}"
            fail("E0912", message, help="shorten the prompt, or compile with a longer context")
        self._random = np.random.default_rng(self.seed)
        self._text = list(prompt)
        self._lookup = PromptLookup() if self.lookup and self.k else None
        if unread := self._text[self.target.length : -1]:
            feed(self.target, unread)
        while self.stats.tokens < tokens and fits(self.target, 1):
            new = self._round(tokens - self.stats.tokens)
            end = next((i + 1 for i, token in enumerate(new) if token in self.eos), len(new))
            self.stats.tokens += end
            yield new[:end]
            if new[end - 1] in self.eos:
                return

    def _round(self, wanted: int) -> list[int]:
        n = len(self._text)
        found = self._look_up(min(self.k, wanted - 1))
        drafts, scores = found or self._draft(min(self.k, wanted - 1))
        logits = self.target.forward([self._text[-1], *drafts])
        new = self._accept(drafts, scores, logits)
        kept = n + len(new) - 1
        self.target.rollback(kept)
        if self.draft is not None:
            self.draft.rollback(min(self.draft.length, kept))
        self._text += new
        self.stats.rounds += 1
        self.stats.drafted += len(drafts)
        self.stats.accepted += len(new) - 1
        if found:
            self.stats.looked_up += len(drafts)
            self.stats.found += len(new) - 1
        if self._lookup is not None and drafts:
            self._lookup.told(found is not None, len(new) - 1, new)
        return new

    def _look_up(self, count: int) -> tuple[list[int], list[np.ndarray]] | None:
        """Proposals out of the text, each certain by its own account; None where there are none."""
        if self._lookup is None:
            return None
        while count > 0 and not fits(self.target, count + 1):
            count -= 1
        drafts = self._lookup.propose(self._text, count)
        return (drafts, [_certain(token, self.target.vocab) for token in drafts]) if drafts else None

    def _draft(self, count: int) -> tuple[list[int], list[np.ndarray]]:
        """Up to `count` proposals with their distributions.

        Fewer if a context is full or the next id is outside the draft's vocabulary.
        """
        drafts: list[int] = []
        scores: list[np.ndarray] = []
        if self.draft is None:
            return drafts, scores
        unseen = self._text[self.draft.length :]
        while count > 0 and not (fits(self.target, count + 1) and fits(self.draft, len(unseen) + count - 1)):
            count -= 1
        if max(unseen) >= self.draft.vocab:  # an id of the target's own: the draft cannot follow
            return drafts, scores
        while len(drafts) < count:
            row = feed(self.draft, drafts[-1:] or unseen)[: self.target.vocab]
            scores.append(self.sampling.distribution(row))
            drafts.append(draw(scores[-1], self._random))
        return drafts, scores

    def _accept(self, drafts: list[int], scores: list[np.ndarray], logits: np.ndarray) -> list[int]:
        """The drafts that stand and the target's own token after them."""
        new: list[int] = []
        for token, q, row in zip(drafts, scores, logits, strict=False):
            other = accept_or_replace(token, self.sampling.distribution(row), q, self._random)
            if other is not None:
                return [*new, other]
            new.append(token)
        return [*new, draw(self.sampling.distribution(logits[len(drafts)]), self._random)]


def _certain(token: int, vocab: int) -> np.ndarray:
    """The distribution of a source that proposes nothing but `token`: it stands with the target's probability of it."""
    made = np.zeros(vocab)
    made[token] = 1.0
    return made
