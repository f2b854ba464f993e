"""Read nodes of a token tree with a model: their scores, and the K/V of those that stand.

An engine that takes a mask and positions from outside reads any nodes in one call, next to each other in its cache
(`ChainModel.grow`). Another holds one path at a time: for each node the cache is cut back to where its path leaves the
one before, and the rest is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..emit.engine_protocols import LanguageModel
from .language_model import fits
from .token_tree import ROOT, TokenTree


class Branches(Protocol):
    """The branches below the `length` that a model has when this is made; `at_once`: many nodes cost one call."""

    at_once: bool

    def rows(self, tree: TokenTree, nodes: Sequence[int]) -> np.ndarray | None:
        """Scores [len(nodes), V] of what follows each of `nodes`; None where the cache has no room for them."""
        ...

    def keep(self, path: Sequence[int]) -> None:
        """Make the beginning of `path` that was read part of the text, and forget all other branches."""
        ...


def branches(model: LanguageModel) -> Branches:
    """Below what `model` holds now."""
    return SideBySide(model) if hasattr(model, "grow") else OneByOne(model)


class SideBySide:
    """Nodes lie beside each other in the cache of a model that has `grow` and `keep`."""

    at_once = True

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._slots: dict[int, int] = {}

    def rows(self, tree: TokenTree, nodes: Sequence[int]) -> np.ndarray | None:
        """As the protocol says; ancestors that were not read yet are read with them."""
        order = sorted({above for node in nodes for above in tree.path(node)} - self._slots.keys())
        if any(node in self._slots for node in nodes):
            raise ValueError("a node is read twice")
        if not fits(self._model, len(order)):
            return None
        for node in order:
            self._slots[node] = len(self._slots)
        parents = [ROOT if (parent := tree.nodes[node].parent) == ROOT else self._slots[parent] for node in order]
        logits = self._model.grow([tree.nodes[node].token for node in order], parents)  # type: ignore[attr-defined]
        at = {node: i for i, node in enumerate(order)}
        return logits[[at[node] for node in nodes]]

    def keep(self, path: Sequence[int]) -> None:
        """As the protocol says."""
        read = [self._slots[node] for node in itertools.takewhile(self._slots.__contains__, path)]
        self._model.keep(read)  # type: ignore[attr-defined]
        self._slots = {}


class OneByOne:
    """One path at a time."""

    at_once = False

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._base = model, model.length
        self._held: list[int] = []

    def rows(self, tree: TokenTree, nodes: Sequence[int]) -> np.ndarray | None:
        """As the protocol says, one call for each node."""
        found = []
        for node in nodes:
            path = tree.path(node)
            shared = min(_alike(path, self._held), len(path) - 1)  # its own scores come from reading it
            self._cut(shared)
            rest = path[shared:]
            if not fits(self._model, len(rest)):
                return None
            found.append(self._model.forward([tree.nodes[one].token for one in rest])[-1])
            self._held += rest
        return np.stack(found)

    def keep(self, path: Sequence[int]) -> None:
        """As the protocol says."""
        self._cut(_alike(path, self._held))
        self._base, self._held = self._model.length, []

    def _cut(self, count: int) -> None:
        del self._held[count:]
        if self._model.length > self._base + count:
            self._model.rollback(self._base + count)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many members two lists begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
