"""Linears that read the largest channels of their input alone: how many, and the same graph without the cut.

x -> Abs -> TopK(k) -> ReduceMin -> least          |x| >= least ? x : 0  -> linear          one cut for each input
"""

from __future__ import annotations

from collections.abc import Iterable

from .annotations import ACTIVE
from .linears import Linear, linears
from .module import Module, drop_unread_nodes, drop_unused_initializers

CUT = "active"  # word in the names of the cut's nodes
_OPS = ("Abs", "TopK", "ReduceMin", "GreaterOrEqual")


def share(linear: Linear) -> float:
    """The part of a linear's input channels that a token needs: 1 where nothing is cut."""
    kept = ACTIVE.get(linear.node)
    return 1.0 if kept is None else min(1.0, kept / linear.shape[1])


def cut(found: Iterable[Linear]) -> list[Linear]:
    """Those of the linears whose input is cut."""
    return [linear for linear in found if ACTIVE.get(linear.node) is not None]


def without_cut(module: Module) -> Module | None:
    """The module with whole inputs; None where none is cut."""
    if not cut(linears(module)):
        return None
    made = module.clone()
    for graph in (model.graph for model in made.graphs.values()):
        for node in [node for node in graph if node.op_type == "Where" and f".{CUT}." in (node.name or "")]:
            whole = node.inputs[1]
            if whole is not None:
                Module.bypass(node, whole)
        drop_unread_nodes(graph, lambda node: node.op_type in _OPS and f".{CUT}." in (node.name or ""))
        drop_unused_initializers(graph)
        for node in graph:
            ACTIVE.remove(node)
    return made
