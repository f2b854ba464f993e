"""While the target verifies a round, the draft makes the trees of the next one, for the outcomes that are likely.

    outcome   the nodes that will stand and the token the target adds: (node, token), token no child of the node
    chance    of the node to stand, times the draft's own probability of the token after it
    value     of a call that reads a node: the chance of its outcome, that is that the target need not wait for it

Each call reads the nodes of the largest values: the end of this round's tree, what may come after it, and what comes
after that. Calls that the target would not wait for come last, since a token that is unlikely to stand is not worth
one. A draft that takes many nodes in a call reads `width` of them, another one node.
When the target is done, the tree of the outcome that came is finished as far as waiting for it pays. What was made for
the others is thrown away: the text is the target's either way (after Kumar et al. 2026, speculative speculative
decoding, arXiv 2603.03251).
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..emit.engine_protocols import LanguageModel
from ..estimate.speculation import PREPARED
from .branches import Branches, branches
from .draft_growth import Growth, most_likely
from .token_tree import ROOT, TokenTree


@dataclass
class _Outcome:
    """The tree below an outcome's token, whose node is `root`; `next`: the node it wants read, None when it is made."""

    root: int
    chance: float
    growth: Growth
    next: int | None


class DraftAhead:
    """The trees of the round after `tree`'s.

    read_text   has the draft hold the text; the scores after it, unless they are `known`; None where it cannot
    vocab       tokens that both models know are below it
    grow        a growth below a node of a tree, so many tokens after the text's end
    worth       whether the target should wait for a call, by the chance of the node that it reads
    width       nodes that one call reads, where the draft takes several
    pace        calls that the draft has time for beside the target; None: as many as the clock gives it
    """

    def __init__(
        self,
        tree: TokenTree,
        draft: LanguageModel,
        vocab: int,
        read_text: Callable[[bool], np.ndarray | None],
        grow: Callable[[TokenTree, int, int], Growth],
        worth: Callable[[float], bool],
        width: int,
        greedy: bool,
        pace: int | None = None,
    ) -> None:
        self._tree = tree.cut(len(tree.nodes), len(tree.nodes))  # outcomes hang on a copy
        self._own = len(tree.nodes)
        self._draft, self._vocab, self._read_text, self._grow = draft, vocab, read_text, grow
        self._worth, self._width, self._greedy, self._pace = worth, width, greedy, pace
        self._outcomes: dict[tuple[int, int], _Outcome] = {}
        self._reader: Branches | None = None
        self._stop, self._idle = threading.Event(), threading.Event()
        self._came = ROOT, -1
        self.calls = 0  # of the draft
        self.waited = 0  # of them, those that the target waited for
        self.seconds = self.late = 0.0  # that all of them took, and those

    def stop(self, stood: Sequence[int], token: int) -> None:
        """The round ended with the nodes `stood` and then `token`: finish that outcome if it is begun, and no other."""
        if self._pace is not None:
            self._idle.wait()
        self._came = stood[-1] if stood else ROOT, token
        self._stop.set()

    def cancel(self) -> None:
        """Begin no call any more."""
        self._stop.set()

    def take(self, stood: Sequence[int], token: int) -> TokenTree | None:
        """The tree of the outcome in which the nodes `stood` and then `token` came, None if it was not begun.

        The draft keeps what it has read of them, and forgets all else. Call it when `run` has ended.
        """
        found = self._outcomes.get((stood[-1] if stood else ROOT, token))
        if self._reader is not None:
            self._reader.keep(stood if found is None else self._tree.path(found.root))
        return None if found is None else self._tree.below(found.root)

    def run(self) -> None:
        """Prepare outcomes until `stop`, then finish the one that came."""
        begin = time.perf_counter()
        try:
            row = self._read_text(ROOT in self._tree.likely)
            if row is not None:
                self.calls += len(row) > 0
                if ROOT not in self._tree.likely:
                    self._tree.likely[ROOT] = self._likely(row)
                self._reader = branches(self._draft)
                self._prepare(self._reader, self._width if self._reader.at_once else 1)
        finally:
            self._idle.set()
        if self._reader is not None:
            self._stop.wait()  # with all outcomes made, or the cache full, it is here before the target is done
            self._finish(self._reader, self._came)
        self.seconds = time.perf_counter() - begin

    def _prepare(self, reader: Branches, width: int) -> None:
        """Read the nodes of the largest values until `stop`, or until no node is left or the cache is full."""
        number = itertools.count()
        waiting: list[tuple[float, int, int, int]] = []  # (-value, number, node, token of an outcome that is not begun)

        def wait(found: Iterable[tuple[float, int, int]]) -> None:
            for value, node, token in found:
                heapq.heappush(waiting, (-value, next(number), node, token))

        owner: dict[int, _Outcome] = {}  # of the nodes below an outcome
        wait((self._tree.value(node), node, -1) for node in self._leaves())
        wait(self._after(self._tree.likely))
        while waiting and self._has_time():
            nodes = []
            while waiting and len(nodes) < width:
                *_, node, token = heapq.heappop(waiting)
                if token < 0:
                    nodes.append(node)
                elif (begun := self._begin(node, token)) is not None and begun.next is not None:
                    owner[begun.root] = begun
                    nodes.append(begun.root)
            rows = reader.rows(self._tree, nodes) if nodes else []
            if rows is None:
                return
            self.calls += len(rows) > 0
            for node, row in zip(nodes, rows, strict=True):
                outcome = owner.pop(node, None)
                if outcome is None:
                    self._tree.likely[node] = self._likely(row)
                    wait(self._after([node]))
                elif (below := self._go_on(outcome, row)) is not None:
                    owner[below] = outcome
                    wait([(self._value(outcome, below), below, -1)])

    def _value(self, outcome: _Outcome, node: int) -> float:
        """Of the call that reads `node`: the chance to save the target a call that it would wait for."""
        chance = self._tree.value(node)
        return outcome.chance * (1.0 if self._worth(chance) else chance)

    def _has_time(self) -> bool:
        if self._pace is not None and self.calls >= self._pace:
            self._idle.set()
            self._stop.wait()
        return not self._stop.is_set()

    def _begin(self, node: int, token: int) -> _Outcome | None:
        """A tree below an outcome, None if there are enough."""
        if len(self._outcomes) == PREPARED:
            return None
        chance = next(chance for one, chance in self._tree.likely[node] if one == token)
        root = self._tree.add(token, node)
        growth = self._grow(self._tree, root, len(self._tree.path(root)))
        made = _Outcome(root, self._tree.value(node) * chance, growth, growth.wanted())
        self._outcomes[node, token] = made
        return made

    def _go_on(self, outcome: _Outcome, row: np.ndarray) -> int | None:
        assert outcome.next is not None
        outcome.growth.take(outcome.next, row[: self._vocab])
        outcome.next = outcome.growth.wanted()
        return outcome.next

    def _finish(self, reader: Branches, came: tuple[int, int]) -> None:
        """Make the tree of what came, while waiting for it pays; none where its draws would not be all made."""
        outcome = self._outcomes.get(came)
        if outcome is None:
            return
        begin = time.perf_counter()
        while outcome.next is not None and self._worth(self._tree.value(outcome.next)):
            rows = reader.rows(self._tree, [outcome.next])
            if rows is None:
                break
            self.calls += 1
            self.waited += 1
            self._go_on(outcome, rows[0])
        self.late = time.perf_counter() - begin
        if outcome.next is not None and not outcome.growth.fill():
            del self._outcomes[came]

    def _likely(self, row: np.ndarray) -> list[tuple[int, float]]:
        return most_likely(row[: self._vocab], self._greedy)

    def _leaves(self) -> list[int]:
        """Nodes of the round's tree that the draft knows, and was not asked what comes after."""
        nodes = self._tree.nodes
        return [
            node
            for node in range(self._own)
            if node not in self._tree.likely and all(nodes[one].token < self._vocab for one in self._tree.path(node))
        ]

    def _after(self, nodes: Iterable[int]) -> Iterator[tuple[float, int, int]]:
        """(chance, node, token) of the outcomes after `nodes`."""
        for node in nodes:
            for token, chance in self._tree.likely[node]:
                if self._tree.child(node, token) is None:
                    yield self._tree.value(node) * chance, node, token
