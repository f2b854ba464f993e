"""Rounds of speculative decoding; with k = 0 the target decodes alone.

    text      t_0 .. t_{n-1}           caches hold a prefix of it, the target's all but t_{n-1}
    draft     a tree below t_{n-1}     of k calls of the draft: a chain of k tokens, or `tree` tokens
    verify    p = target([t_{n-1}, all tokens of the tree])     one call; every token sees its own path alone
    accept    a path d_1 .. d_a as p allows; then one token of the target: after d_a, where none of the tree stood
    roll back both caches to the n + a positions that stand, the path's moved together

Greedy: a token stands if it is the largest of p at its parent. Sampling: see `token_tree`. Each round yields a + 1
tokens, so a chain with acceptance rate r yields (1 - r^(k+1)) / (1 - r) of them on average. With `overlap` the draft
makes trees for the likely outcomes of a round while the target verifies it (`draft_ahead`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from ..diagnostics.diagnostic import fail
from ..emit.engine_protocols import LanguageModel
from ..estimate.speculation import PREPARED
from .branches import Branches, branches
from .draft_ahead import DraftAhead
from .draft_growth import STANDS, Growth
from .language_model import feed, fits
from .prompt_lookup import PromptLookup
from .sample import Sampling
from .token_tree import ROOT, TokenTree, walk

_FOUND = 0.6  # chance of a token found in the text, where outcomes are put in order


@dataclass
class Stats:
    """What a run did. `rounds` are calls of the target after the prompt."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    looked_up: int = 0  # of the drafted, those found in the text
    found: int = 0  # of these, the accepted ones
    ready: int = 0  # rounds whose tree was there when the round before it ended
    waited: int = 0  # calls of the draft that the target waited for
    seconds: float = 0.0  # of all rounds
    verifying: float = 0.0  # in which the target ran
    drafting: float = 0.0  # in which the draft ran, beside the target or before it

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

    Both models start empty, or hold a beginning of the prompt that leaves its last token out. `tree`: tokens of a
    round's tree, 0 for a chain of k; `slots`: that a call of the target has, the text's last token's among them.
    """

    target: LanguageModel
    draft: LanguageModel | None = None
    k: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    eos: Collection[int] = ()
    seed: int = 0
    lookup: bool = False  # drafts out of the text too
    tree: int = 0
    overlap: bool = False
    outcomes: int = PREPARED  # nodes that a call of the draft reads beside the target, where it takes several
    pace: int | None = None  # calls it has time for beside the target; None: as the clock has it
    slots: int = 0
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
        self._next: TokenTree | None = None  # made while the round before was verified
        self._at_once = False  # without waiting for it
        self._waiting = 0.0  # seconds of calls that the target waited for
        self._reader: Branches | None = None  # of this round's tree
        if unread := self._text[self.target.length : -1]:
            feed(self.target, unread)
        with ThreadPoolExecutor(1, thread_name_prefix="draft") as self._beside:
            while self.stats.tokens < tokens and fits(self.target, 1):
                begin = time.perf_counter()
                new = self._round(tokens - self.stats.tokens)
                self.stats.seconds += time.perf_counter() - begin
                end = next((i + 1 for i, token in enumerate(new) if token in self.eos), len(new))
                self.stats.tokens += end
                yield new[:end]
                if new[end - 1] in self.eos:
                    return

    def _round(self, wanted: int) -> list[int]:
        guess = self._look_up(wanted - 1)
        tree = self._propose(wanted - 1, guess)
        stood, token = self._verify(tree, wanted - 1)
        new = [*(tree.nodes[node].token for node in stood), token]
        self._text += new
        right = next((i for i, (a, b) in enumerate(zip(guess, new, strict=False)) if a != b), len(guess))
        self.stats.rounds += 1
        self.stats.drafted += len(tree.nodes)
        self.stats.accepted += len(stood)
        self.stats.looked_up += len(guess)
        self.stats.found += min(right, len(stood))
        if self._lookup is not None and tree.nodes:
            self._lookup.told(bool(guess), min(right, len(stood)) if guess else len(stood), new)
        return new

    def _look_up(self, most: int) -> list[int]:
        """Up to k tokens out of the text that may follow; none where there are none or the draft does better.

        Beside a tree they are taken in any case, if they go into slots that would be padding.
        """
        if self._lookup is None:
            return []
        count = min(self.k, most)
        while count > 0 and not fits(self.target, count + 1):
            count -= 1
        free = self.slots - 1 - self.tree
        if self.tree and free > 0:
            return self._lookup.guess(self._text, min(count, free))
        return self._lookup.propose(self._text, count)

    def _propose(self, most: int, guess: list[int]) -> TokenTree:
        """The tree of a round of at most `most` accepted tokens; `guess` in it."""
        ready, self._next = self._next, None
        self.stats.ready += ready is not None and self._at_once
        size = self.tree or min(self.k, most)
        free = max(0, self.slots - 1 - size) if self.tree else 0
        while size > 0 and not fits(self.target, size + 1):
            size, free = size - 1, 0
        if guess and not self.tree:
            tree = TokenTree()
        elif ready is not None:
            tree = ready.cut(most, size)
        else:
            tree = self._draft(most, size)
        if len(guess) > free and self.tree:
            tree = tree.cut(most, size + free - len(guess))
        _add_chain(tree, guess)
        return tree

    def _draft(self, most: int, size: int) -> TokenTree:
        """A tree made now, before the target is called."""
        begin, tree = time.perf_counter(), TokenTree()
        row = self._read_text() if size > 0 and most > 0 else None
        if row is None or self.draft is None:
            return tree
        reader, growth = branches(self.draft), self._growth(tree, ROOT, 0, size, min(self.k, most))
        calls = 0
        while (node := growth.wanted()) is not None:
            if node != ROOT:
                rows = reader.rows(tree, [node]) if self._worth(tree.value(node)) else None
                if rows is None:
                    growth.fill()
                    break
                row = rows[0]
            calls += 1
            growth.take(node, row[: self.target.vocab])
        self._reader = reader
        self._wait(calls, time.perf_counter() - begin)
        self.stats.drafting += time.perf_counter() - begin
        return tree

    def _wait(self, calls: int, seconds: float) -> None:
        """The target waited for calls of the draft."""
        self.stats.waited += calls
        self._waiting += seconds

    def _worth(self, chance: float) -> bool:
        """Whether the target should wait for a call that reads a node of this chance: it brings a token that stands
        with `STANDS` of it, and takes the time of a call.

        Only with overlap, where the draft can do something else with its time; sampled, a tree hangs on the seed alone.
        """
        if not self.overlap or not self.sampling.greedy or not self.stats.tokens:
            return True
        if self.pace is not None:
            call, whole = 1 / self.pace, self.stats.rounds + self.stats.waited / self.pace
        else:
            call, whole = self._waiting / max(1, self.stats.waited), self.stats.seconds
        return chance * STANDS * whole / self.stats.tokens > call

    def _growth(self, tree: TokenTree, root: int, after: int, size: int, calls: int) -> Growth:
        """Below a node `after` tokens behind the text.

        What it draws hangs on the seed and the place alone: the tree is the same whether it is made ahead or not.
        """
        random = np.random.default_rng((self.seed, len(self._text) + after))
        return Growth(tree, root, size, calls, self.tree > 0, self.sampling, random)

    def _read_text(self, known: bool = False) -> np.ndarray | None:
        """The draft's scores after the text, which it then holds; None if it has no room or does not know a token.

        Empty where the scores are `known` and nothing is to be read.
        """
        if self.draft is None:
            return None
        if known and self.draft.length == len(self._text):
            return np.zeros(0, np.float32)
        if self.draft.length == len(self._text):
            self.draft.rollback(len(self._text) - 1)
        unseen = self._text[self.draft.length :]
        if max(unseen) >= self.draft.vocab or not fits(self.draft, len(unseen)):
            return None
        return feed(self.draft, unseen)

    def _verify(self, tree: TokenTree, most: int) -> tuple[list[int], int]:
        """The nodes of `tree` that stand and the target's token after them; beside it the next round's tree is made."""
        ahead = self._ahead(tree) if self.overlap and most > 1 else None
        if ahead is None:
            stood, token = self._judge(tree)
        else:
            with self._working(ahead):
                stood, token = self._judge(tree)
                ahead.stop(stood, token)
            self.stats.drafting += ahead.seconds
            self._wait(ahead.waited, ahead.late)
        if tree.chain:
            self.target.rollback(len(self._text) + len(stood))
        else:
            self.target.keep([0, *(node + 1 for node in stood)])  # type: ignore[attr-defined]
        if ahead is not None:
            self._next = ahead.take(stood, token)
            self._at_once = self._next is not None and not ahead.waited
        elif self._reader is not None:
            self._reader.keep(stood)
        self._reader = None
        return stood, token

    @contextlib.contextmanager
    def _working(self, ahead: DraftAhead) -> Iterator[None]:
        """Let the draft work in a thread of its own; its error is raised here, if the target has none."""
        running = self._beside.submit(ahead.run)
        try:
            yield
        except BaseException:
            ahead.cancel()
            raise
        finally:
            wait([running])
        running.result()

    def _judge(self, tree: TokenTree) -> tuple[list[int], int]:
        begin = time.perf_counter()
        logits = self._scores(tree)
        self.stats.verifying += time.perf_counter() - begin
        return walk(tree, logits, self.sampling, self._random)

    def _scores(self, tree: TokenTree) -> np.ndarray:
        """The target's scores [1 + nodes, V] after the text and after each node."""
        ids = [self._text[-1], *tree.tokens]
        if tree.chain:
            return self.target.forward(ids)
        return self.target.grow(ids, [ROOT, *(parent + 1 for parent in tree.parents)])  # type: ignore[attr-defined]

    def _ahead(self, tree: TokenTree) -> DraftAhead | None:
        if self.draft is None:
            return None
        if self._reader is not None:
            self._reader.keep([])
        size = self.tree or self.k
        return DraftAhead(
            tree,
            self.draft,
            min(self.draft.vocab, self.target.vocab),
            self._read_text,
            lambda whole, root, after: self._growth(whole, root, after, size, self.k),
            self._worth,
            self.outcomes,
            self.sampling.greedy,
            self.pace,
        )


def _add_chain(tree: TokenTree, tokens: Sequence[int]) -> None:
    """Put tokens found in the text into the tree, as the last that are tried where others are."""
    at = ROOT
    for token in tokens:
        known = tree.child(at, token)
        at = tree.add(token, at, _FOUND * tree.value(at)) if known is None else known
