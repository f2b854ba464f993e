"""Assign the nodes of a graph to parts: one placement each, no circle between parts, few values across.

    1. list scheduling: keep to one placement while a node of it is ready, then go on with another
    2. contraction: two parts of one placement become one where no path between them leads through a third

The first keeps the quotient graph acyclic by construction: a node is assigned after everything it reads. For two
placements it gives the fewest parts that any order gives; for more of them, the second merges what an unlucky choice of
the next placement has separated. Time is linear in the graph for each placement, and small in the number of parts.

The two steps are the greedy construction and the contraction of acyclic partitioning (Moreira, Popp and Schulz 2017,
"Graph partitioning with acyclicity constraints"), without bounds on the size of a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import networkx as nx
import onnx_ir as ir

from ..ir.bodies import reads
from ..ir.module import Module
from .copied_nodes import copied_nodes
from .placement import Placement, placements


@dataclass(frozen=True)
class Cut:
    """The part of each node of a graph. A node copied to its readers can be in several parts and has no home."""

    nodes: list[ir.Node]
    placements: list[Placement]  # of each part, in an order in which the parts can run
    members: list[list[int]]  # part -> positions in `nodes`, ascending
    home: dict[ir.Node, int]  # node -> the part that computes it for the others
    crossing: dict[ir.Value, list[int]]  # value made in one part -> the other parts that read it, in graph order

    def names(self, positions: Sequence[int]) -> list[str]:
        """The names of the nodes at `positions`, sorted: what is compared between buckets."""
        return sorted(self.nodes[i].name or "" for i in positions)


def cut(module: Module, key: str, deploy_device: str) -> Cut:
    """Cut graph `key` of `module`; `deploy_device` is where nodes without a device run. E0501, E0502, E0506."""
    nodes = list(module.graphs[key].graph)
    where = placements(module, nodes, deploy_device)
    copied = copied_nodes(nodes, where, deploy_device)
    own = [i for i in range(len(nodes)) if i not in copied]
    used = list(dict.fromkeys(where[i] for i in own))
    if len(used) < 2:
        only = used[0] if used else Placement(deploy_device)
        return Cut(nodes, [only], [list(range(len(nodes)))], dict.fromkeys(nodes, 0), {})
    successors, waits = _edges(nodes, own)
    used.sort(key=lambda placement: placement.device != deploy_device)  # of orders with as many parts, the first wins
    orders = (_list_schedule(own, where, successors, waits, first) for first in used)
    home = min((_contract(part_of, where, successors) for part_of in orders), key=lambda part_of: max(part_of.values()))
    return _with_copies(nodes, where, home)


def _edges(nodes: Sequence[ir.Node], own: Sequence[int]) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Readers of each node, and how many nodes each waits for; by position, copied nodes left out."""
    position = {nodes[i]: i for i in own}
    successors: dict[int, list[int]] = {i: [] for i in own}
    waits = {}
    for i in own:
        producers = {value.producer() for value in reads(nodes[i])}
        before = [position[node] for node in producers if node in position]
        waits[i] = len(before)
        for j in before:
            successors[j].append(i)
    return successors, waits


def _list_schedule(
    own: Sequence[int],
    where: Sequence[Placement],
    successors: dict[int, list[int]],
    before: dict[int, int],
    first: Placement,
) -> dict[int, int]:
    """Node -> part, beginning with placement `first` and changing it only when none of its nodes is ready."""
    waits = dict(before)
    ready: dict[Placement, list[int]] = {}  # heaps: within a part, nodes come in the graph's order
    for i in own:
        if not waits[i]:
            heappush(ready.setdefault(where[i], []), i)
    part_of: dict[int, int] = {}
    part, current = 0, first if first in ready else _earliest(ready)
    while True:
        queue = ready[current]
        while queue:
            i = heappop(queue)
            part_of[i] = part
            for j in successors[i]:
                waits[j] -= 1
                if not waits[j]:
                    heappush(ready.setdefault(where[j], []), j)
        del ready[current]
        if not ready:
            return part_of
        part, current = part + 1, _earliest(ready)


def _earliest(ready: dict[Placement, list[int]]) -> Placement:
    """The placement whose next node is the first in the graph."""
    return min(ready, key=lambda placement: ready[placement][0])


def _contract(part_of: dict[int, int], where: Sequence[Placement], successors: dict[int, list[int]]) -> dict[int, int]:
    """Merge parts of one placement where the graph of parts stays acyclic; parts are numbered in running order."""
    parts = nx.DiGraph()
    parts.add_nodes_from(part_of.values())
    parts.add_edges_from((part_of[i], part_of[j]) for i in part_of for j in successors[i] if part_of[i] != part_of[j])
    placement = {part: where[i] for i, part in part_of.items()}
    into: dict[int, int] = {}
    while (pair := _mergeable(parts, placement)) is not None:
        early, late = pair
        parts.add_edges_from((before, late) for before in list(parts.predecessors(early)))
        parts.add_edges_from((late, after) for after in list(parts.successors(early)) if after != late)
        parts.remove_node(early)
        into[early] = late
    number = {part: k for k, part in enumerate(nx.lexicographical_topological_sort(parts))}
    return {i: number[_last(part, into)] for i, part in part_of.items()}


def _last(part: int, into: dict[int, int]) -> int:
    while part in into:
        part = into[part]
    return part


def _mergeable(parts: nx.DiGraph, placement: dict[int, Placement]) -> tuple[int, int] | None:
    """Two parts of one placement with no third on a path between them; None if there are none.

    `below[p]` has bit q if part p leads to part q, `above` the other way round.
    """
    order = list(nx.lexicographical_topological_sort(parts))
    above, below = dict.fromkeys(order, 0), dict.fromkeys(order, 0)
    for part in order:
        for before in parts.predecessors(part):
            above[part] |= above[before] | 1 << before
    for part in reversed(order):
        for after in parts.successors(part):
            below[part] |= below[after] | 1 << after
    seen: dict[Placement, list[int]] = {}
    for late in order:
        for early in reversed(seen.get(placement[late], [])):
            if not below[early] & above[late]:
                return early, late
        seen.setdefault(placement[late], []).append(late)
    return None


def _with_copies(nodes: list[ir.Node], where: Sequence[Placement], home: dict[int, int]) -> Cut:
    """Put each copied node into all parts that read it; one that nobody reads goes into the first."""
    homes = {nodes[i]: part for i, part in home.items()}
    readers_of: dict[ir.Value, list[ir.Node]] = {}
    for node in nodes:
        for value in reads(node):
            readers_of.setdefault(value, []).append(node)
    parts_of: dict[ir.Node, set[int]] = {node: {part} for node, part in homes.items()}
    for node in reversed(nodes):
        if node not in homes:
            readers = (parts_of[reader] for value in node.outputs for reader in readers_of.get(value, ()))
            parts_of[node] = set().union(*readers) or {0}
    count = 1 + max(home.values())
    members: list[list[int]] = [[] for _ in range(count)]
    crossing: dict[ir.Value, list[int]] = {}
    for i, node in enumerate(nodes):
        for part in parts_of[node]:
            members[part].append(i)
        for value in node.outputs if node in homes else ():
            readers = set().union(*(parts_of[reader] for reader in readers_of.get(value, ()))) - {homes[node]}
            if readers:
                crossing[value] = sorted(readers)
    placed = {part: where[i] for i, part in home.items()}
    return Cut(nodes, [placed[part] for part in range(count)], members, homes, crossing)
