"""How a draft makes a tree: each of its k calls scores what follows the node that is likeliest to stand.

    call 1   after the text          -> its likeliest continuations wait, each with its probability
    call i   the best of all that wait becomes a node and is read; its continuations wait too,
             their probability times its own
    then     the best of what waits, until the tree is full

A chain takes one continuation of each node instead. Greedily continuations come in the order of the draft's own
probabilities; sampled they are drawn without replacement, and the j-th is taken to stand with chance a (1 - a)^j. What
is drawn later never decides what was drawn before, so `token_tree.walk` stays lossless (Chen et al. 2024, Sequoia,
arXiv 2402.12374).
"""

from __future__ import annotations

import heapq

import numpy as np

from .sample import Sampling, draw
from .token_tree import TokenTree

LIKELY = 32  # continuations of a node that are looked at
STANDS = 0.7  # a: about what small drafts of one family reach (docs/estimate.md)


class Growth:
    """A tree of up to `size` nodes below `root`, made of `calls` rows of scores; without `siblings` a chain."""

    def __init__(
        self,
        tree: TokenTree,
        root: int,
        size: int,
        calls: int,
        siblings: bool,
        sampling: Sampling,
        random: np.random.Generator,
    ) -> None:
        self._tree, self._root = tree, root
        self._left, self._calls = size, calls
        self._siblings, self._sampling, self._random = siblings, sampling, random
        self._waiting: list[tuple[float, int, int]] = []  # (-chance, number, node whose next continuation it is)
        self._rest: dict[int, np.ndarray] = {}  # node -> what its next continuation is drawn from
        self._number, self._begun = 0, False

    def wanted(self) -> int | None:
        """The node whose scores `take` is to get next, `root` first; None: the tree is made."""
        if self._left <= 0 or self._calls <= 0:
            self._fill()
            return None
        if not self._begun:
            return self._root
        while self._waiting and self._left > 0:
            made = self._grow()
            if self._left > 0:
                return made
        return None

    def take(self, node: int, row: np.ndarray) -> None:
        """The draft's scores [V] of what follows `node`."""
        self._calls -= 1
        self._begun = True
        self._tree.likely[node] = most_likely(row, self._sampling.greedy)
        if not self._sampling.greedy:
            self._rest[node] = self._sampling.distribution(row)
        self._wait(node)

    def fill(self) -> bool:
        """Be content with the rows there are: fill the tree from what waits. False where later draws would differ."""
        self._fill()
        return self._sampling.greedy

    def _fill(self) -> None:
        while self._left > 0 and self._waiting:
            self._grow()

    def _grow(self) -> int:
        chance, _, parent = heapq.heappop(self._waiting)
        if self._sampling.greedy:
            rank = len(self._tree.children(parent))
            made = self._tree.add(self._tree.likely[parent][rank][0], parent, -chance)
        else:
            q = self._rest[parent]
            token = draw(q, self._random)
            made = self._tree.add(token, parent, -chance, q)
            rest = q.copy()
            rest[token] = 0.0
            self._rest[parent] = rest / rest.sum() if rest.any() else rest
        self._left -= 1
        if self._siblings:
            self._wait(parent)
        return made

    def _wait(self, parent: int) -> None:
        """Queue the next continuation of `parent`, if it has one."""
        rank, above = len(self._tree.children(parent)), self._tree.value(parent)
        if self._sampling.greedy:
            likely = self._tree.likely[parent]
            if rank == len(likely):
                return
            chance = above * likely[rank][1]
        else:
            if not self._rest[parent].any():
                return
            chance = above * STANDS * (1 - STANDS) ** rank
        self._number += 1
        heapq.heappush(self._waiting, (-chance, self._number, parent))


def most_likely(row: np.ndarray, greedy: bool) -> list[tuple[int, float]]:
    """The likeliest tokens after a row of scores, the first of equal ones first, with the chance of each to be the
    target's: its probability q; greedily sqrt(q) of the first one, and the rest shared by the others' q.

    A target that takes its likeliest token agrees with the draft's more often than the draft's probability says: on the
    example pair in 0.41, 0.66, 0.82 and 0.97 of the places where that is 0.15, 0.35, 0.65 and 0.85.
    """
    scores = row.astype(np.float64) - row.max()
    chances = np.exp(scores)
    chances /= chances.sum()
    count = min(LIKELY, len(row))
    first = np.argpartition(-chances, count - 1)[:count]
    first = first[np.lexsort((first, -chances[first]))]
    if int(np.argmax(row)) != first[0]:  # equal scores beyond the cut
        first[0] = int(np.argmax(row))
    found = chances[first]
    if greedy and (rest := 1.0 - found[0]) > 0:
        found[1:] *= (1.0 - np.sqrt(found[0])) / rest
        found[0] = np.sqrt(found[0])
    return [(int(token), float(chance)) for token, chance in zip(first, found, strict=True)]
