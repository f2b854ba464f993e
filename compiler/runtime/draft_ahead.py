"""While the target verifies a round, the draft makes the trees of the next one, for the outcomes that are likely.

    outcome   the nodes that will stand and the token the target adds: (node, token), token no child of the node
    chance    of the node to stand, times the draft's own probability of the token after it

Outcomes are taken in the order of their chances until the target is done; the one that came is finished if it was
begun. A draft that reads many nodes in a call makes all trees in k + 1 calls, another one tree after the other. What is
made for an outcome that does not come is thrown away: the text is the target's either way (after Kumar et al. 2026,
speculative speculative decoding, arXiv 2603.03251).
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..emit.engine_protocols import LanguageModel
from .branches import Branches, branches
from .draft_growth import Growth, most_likely
from .token_tree import ROOT, TokenTree

_FIRST = 0.6  # chance of the best outcome after a node that the draft was not asked about


class DraftAhead:
    """The trees of the round after `tree`'s.

    read_text   has the draft read the text's end, if it has not yet: the scores after it; None where it cannot
    vocab       tokens that both models know are below it
    grow        a growth below a node of a tree, so many tokens after the text's end
    most        outcomes that are prepared
    """

    def __init__(
        self,
        tree: TokenTree,
        draft: LanguageModel,
        vocab: int,
        read_text: Callable[[], np.ndarray | None],
        grow: Callable[[TokenTree, int, int], Growth],
        most: int,
    ) -> None:
        self._most = most
        self._tree = tree.cut(len(tree.nodes), len(tree.nodes))  # outcomes hang on a copy
        self._own = len(tree.nodes)
        self._draft, self._vocab, self._read_text, self._grow = draft, vocab, read_text, grow
        self._ready: dict[tuple[int, int], int] = {}  # outcome -> its node in the copy, below which its tree is
        self._reader: Branches | None = None
        self._stop = threading.Event()
        self._came: tuple[int, int] | None = None
        self.seconds = 0.0

    def stop(self, stood: Sequence[int], token: int) -> None:
        """The round ended with the nodes `stood` and then `token`: finish that outcome if it is begun, and no other."""
        self._came = stood[-1] if stood else ROOT, token
        self._stop.set()

    def cancel(self) -> None:
        """Begin no call any more."""
        self._stop.set()

    def take(self, stood: Sequence[int], token: int) -> TokenTree | None:
        """The tree of the outcome in which the nodes `stood` and then `token` came, if it is ready.

        The draft keeps what it has read of them, and forgets all else. Call it when `run` has ended.
        """
        last = stood[-1] if stood else ROOT
        root = self._ready.get((last, token))
        if self._reader is not None:
            self._reader.keep(stood if root is None else self._tree.path(root))
        return None if root is None else self._tree.below(root)

    def run(self) -> None:
        """Prepare outcomes until `stop`."""
        begin = time.perf_counter()
        try:
            self._run()
        finally:
            self.seconds = time.perf_counter() - begin

    def _run(self) -> None:
        row = self._read_text()
        if row is None:
            return
        if ROOT not in self._tree.likely:
            self._tree.likely[ROOT] = most_likely(row[: self._vocab])
        self._reader = branches(self._draft)
        if self._reader.at_once:
            leaves = self._leaves()
            if not leaves or self._read(self._reader, leaves):
                self._prepare(self._reader, heapq.nlargest(self._most, self._outcomes(self._tree.likely)))
        else:
            self._one_by_one(self._reader)

    def _one_by_one(self, reader: Branches) -> None:
        """Nodes that the draft was not asked about, and outcomes, the likeliest first."""
        waiting = [(-_FIRST * self._tree.value(node), node, -1) for node in self._leaves()]
        waiting += [(-chance, node, token) for chance, node, token in self._outcomes(self._tree.likely)]
        heapq.heapify(waiting)
        done = True
        while waiting and done and not self._stop.is_set() and len(self._ready) < self._most:
            chance, node, token = heapq.heappop(waiting)
            if token >= 0:
                done = self._prepare(reader, [(-chance, node, token)])
            elif done := self._read(reader, [node]):
                for chance, _, token in self._outcomes([node]):
                    heapq.heappush(waiting, (-chance, node, token))

    def _leaves(self) -> list[int]:
        """Nodes of the round's tree that the draft knows, and was not asked what comes after."""
        nodes = self._tree.nodes
        return [
            node
            for node in range(self._own)
            if node not in self._tree.likely and all(nodes[one].token < self._vocab for one in self._tree.path(node))
        ]

    def _read(self, reader: Branches, leaves: list[int]) -> bool:
        """Ask the draft what follows `leaves`; whether there was room and time."""
        rows = None if self._stop.is_set() else reader.rows(self._tree, leaves)
        if rows is None:
            return False
        for node, row in zip(leaves, rows, strict=True):
            self._tree.likely[node] = most_likely(row[: self._vocab])
        return True

    def _outcomes(self, nodes: Iterable[int]) -> list[tuple[float, int, int]]:
        """(chance, node, token) of what may come after `nodes`."""
        return [
            (self._tree.value(node) * chance, node, token)
            for node in nodes
            for token, chance in self._tree.likely[node]
            if self._tree.child(node, token) is None
        ]

    def _prepare(self, reader: Branches, outcomes: list[tuple[float, int, int]]) -> bool:
        """The trees of `outcomes`, call by call; whether there was room. What came is finished after `stop`."""
        depths = self._tree.depths
        growing: dict[int, Growth] = {}
        root_of: dict[int, tuple[int, int]] = {}
        for _, node, token in outcomes:
            root = self._tree.add(token, node, self._tree.value(node))
            root_of[root] = node, token
            growing[root] = self._grow(self._tree, root, (0 if node == ROOT else depths[node]) + 1)
        while growing:
            if self._stop.is_set():
                growing = {root: growth for root, growth in growing.items() if root_of[root] == self._came}
            asked = {root: node for root, growth in growing.items() if (node := growth.wanted()) is not None}
            self._ready.update({root_of[root]: root for root in growing.keys() - asked.keys()})
            growing = {root: growing[root] for root in asked}
            rows = reader.rows(self._tree, list(asked.values())) if asked else []
            if rows is None:
                return False
            for (root, node), row in zip(asked.items(), rows, strict=True):
                growing[root].take(node, row[: self._vocab])
        return True
