"""The actions of a plan in words: what has run, why the others would, and what they are estimated to take."""

from __future__ import annotations

from typing import Any

from ..files import cache
from . import records
from .action import Graph
from .perform import unit_facts


def rows(graph: Graph, plan: str) -> list[dict[str, Any]]:
    """A row for each action in the order they can run. `state`: `cached` or `runs`; `why` says why it runs."""
    found = []
    for key, action in graph:
        result = records.known(key)
        memory, seconds = records.corrected(action)
        state, why = ("cached", "") if result is not None else ("runs", records.why(plan, action))
        if result is None and action.kind == "compile":
            state, why = _of_compile(graph, key, why)
        found.append(
            {
                "key": key,
                "kind": action.kind,
                "name": action.name,
                "needs": list(action.needs),
                "state": state,
                "why": why,
                "memory": round(memory),
                "seconds": round(seconds, 2),
                "outputs": [[one.kind, one.key] for one in result.outputs] if result is not None else [],
            }
        )
    return found


def _of_compile(graph: Graph, key: str, why: str) -> tuple[str, str]:
    """A binary is known by its graphs: another plan may have made it, and before they are lowered nobody knows."""
    action = graph.actions[key]
    facts = unit_facts(action)
    if facts is None:
        return "runs", "its graphs are not lowered yet; it is cached if they are those of an earlier compile"
    kind, digest = facts["output"]  # type: ignore[misc]
    return ("cached", "") if cache.entry(kind, digest).is_dir() else ("runs", why)
