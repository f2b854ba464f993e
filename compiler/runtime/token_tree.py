"""Drafted tokens as a tree below the end of a text, and the walk that the target's scores allow through it.

    text .. t --+-- a --+-- c          node: token, parent, and the distribution q it was drawn from
                |       +-- d          children of a node are tried in the order in which they were drawn
                +-- b

A chain of k tokens is the tree in which every node has one child. At each node the first child x ~ q stands with
probability min(1, p(x) / q(x)); if it falls, p becomes max(0, p - q), normalised, and the next child is tried: what is
made stays distributed as the target's own (`sample.rest_after`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .sample import Sampling, certain, draw, rest_after

ROOT = -1  # the end of the text


@dataclass(frozen=True)
class Node:
    """`q`: what the token was drawn from, None where its source proposed nothing else; `value`: its chance to stand."""

    token: int
    parent: int
    value: float
    q: np.ndarray | None = None


@dataclass
class TokenTree:
    """Nodes in an order in which parents come first. `likely`: expanded node -> (token, probability), likeliest first,
    of what the draft thinks comes after it."""

    nodes: list[Node] = field(default_factory=list)
    likely: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    _children: dict[int, list[int]] = field(default_factory=dict)

    def add(self, token: int, parent: int, value: float = 1.0, q: np.ndarray | None = None) -> int:
        """A new node; its number."""
        self._children.setdefault(parent, []).append(len(self.nodes))
        self.nodes.append(Node(token, parent, value, q))
        return len(self.nodes) - 1

    def children(self, node: int) -> list[int]:
        """In the order in which they are tried."""
        return self._children.get(node, [])

    def child(self, node: int, token: int) -> int | None:
        """The child of `node` that stands for `token`."""
        return next((one for one in self.children(node) if self.nodes[one].token == token), None)

    def path(self, node: int) -> list[int]:
        """The nodes from below the root down to `node`."""
        found: list[int] = []
        while node != ROOT:
            found.append(node)
            node = self.nodes[node].parent
        return found[::-1]

    def value(self, node: int) -> float:
        """The draft's chance that everything down to `node` stands."""
        return 1.0 if node == ROOT else self.nodes[node].value

    @property
    def tokens(self) -> list[int]:
        """Of all nodes."""
        return [node.token for node in self.nodes]

    @property
    def parents(self) -> list[int]:
        """Of all nodes."""
        return [node.parent for node in self.nodes]

    @property
    def depths(self) -> list[int]:
        """Of all nodes, from 1."""
        found: list[int] = []
        for node in self.nodes:
            found.append(1 if node.parent == ROOT else found[node.parent] + 1)
        return found

    @property
    def chain(self) -> bool:
        """Whether every node hangs on the one before it."""
        return all(node.parent == at - 1 for at, node in enumerate(self.nodes))

    def cut(self, depth: int, size: int) -> TokenTree:
        """The first `size` of the nodes that lie at most `depth` below the root."""
        kept = [at for at, below in enumerate(self.depths) if below <= depth][: max(size, 0)]
        return self._only(kept, ROOT)

    def below(self, node: int) -> TokenTree:
        """What hangs below `node`, as a tree of its own."""
        inside = {node}
        kept = []
        for at, one in enumerate(self.nodes):
            if one.parent in inside and one.parent != ROOT:
                inside.add(at)
                kept.append(at)
        return self._only(kept, node)

    def _only(self, kept: list[int], root: int) -> TokenTree:
        at = {old: new for new, old in enumerate(kept)} | {root: ROOT}
        whole = self.value(root)
        made = TokenTree()
        for old in kept:
            node = self.nodes[old]
            made.add(node.token, at[node.parent], node.value / whole if whole else 0.0, node.q)
        made.likely = {at[node]: rows for node, rows in self.likely.items() if node in at}
        return made


def walk(tree: TokenTree, logits: np.ndarray, sampling: Sampling, random: np.random.Generator) -> tuple[list[int], int]:
    """The nodes that stand, a path from the root, and the target's own token after them.

    `logits` [1 + nodes, V]: the target's scores after the text and after each node.
    """
    at, stood = ROOT, list[int]()
    while True:
        p = sampling.distribution(logits[at + 1])
        found = None
        for child in tree.children(at):
            node = tree.nodes[child]
            q = certain(node.token, len(p)) if node.q is None else node.q
            rest = rest_after(node.token, p, q, random)
            if rest is None:
                found = child
                break
            p = rest
        if found is None:
            return stood, draw(p, random)
        stood.append(found)
        at = found
