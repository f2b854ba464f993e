"""Actions that do not run below this process: by a store, and on the engine that `--on` names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from ..compile.options import CompileOptions, Progress
from ..diagnostics.diagnostic import EngineError, fail
from ..diagnostics.nearest import nearest_help
from . import records
from .action import Action, Graph
from .perform import Load, perform, unit_facts
from .records import Output, Result
from .store import Store, open_store

if TYPE_CHECKING:
    from .executor import Row, Watch

ENGINES = ("dask",)
_REMADE = frozenset({"qnn-target"})  # what putting a bundle together makes again: it need not come from a store


def perform_with_store(
    action: Action, store: str | None, load: Load, progress: Progress = lambda _text: None
) -> Result:
    """Do an action; with a store, what it needs comes from there, and its result is there afterwards."""
    if store is None:
        return perform(action, load, progress)
    held = open_store(store)
    if (found := pulled(action.key, held)) is not None:
        return found
    for need in action.needs:
        held.pull_result(need)
        noted = records.noted(need)
        for one in _inputs(action, noted.outputs if noted is not None else []):
            if not held.pull(one):
                _not_there(action, one, store)
    made = perform(action, load, progress)
    held.push_result(action.key, made.outputs)
    return made


def _not_there(action: Action, one: Output, store: str) -> NoReturn:
    message = f"`{action.label}` needs `{one.kind}/{one.key}`, which the store `{store}` does not hold whole"
    fail("E0972", message, help="start the compile again: it is made again", kind=EngineError)


def pulled(key: str, store: Store, leave: frozenset[str] = frozenset()) -> Result | None:
    """The result of an action that has run somewhere, its outputs taken into the cache; None: it has to run.

    Outputs of the kinds in `leave` stay where they are.
    """
    if not store.pull_result(key):
        return None
    found = records.noted(key)
    if found is None or not all(store.pull(one) for one in found.outputs if one.kind not in leave):
        return None
    return found


def share(graph: Graph, store: str) -> None:
    """Put what of a graph has run on this machine into the store, where it is not: others read it from there."""
    held = open_store(store)
    for key, _ in graph:
        if (found := records.known(key)) is not None and not held.holds(key, found.outputs):
            held.push_result(key, found.outputs)


def fetch(graph: Graph, store: str, leave: frozenset[str] = frozenset()) -> None:
    """Bring the results of a graph that are in the store into this machine's cache."""
    held = open_store(store)
    for key, _ in graph:
        if records.known(key) is None:
            pulled(key, held, leave)


def run_elsewhere(
    graph: Graph, options: CompileOptions, tell: Callable[[str, Row, int, int], None], name: str, watch: Watch
) -> None:
    """Run a graph on the engine that `options.on` names; E0973 where there is no such engine."""
    url = options.on or ""
    parts = urlsplit(url)
    if parts.scheme not in ENGINES:
        help = nearest_help(parts.scheme, ENGINES, "engine") or "write `--on dask://HOST:8786`"
        fail("E0973", f"`{url}` names no engine that runs actions", help=help)
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or port is None:
        fail("E0973", f"`{url}` names no host and port", help="write `--on dask://HOST:8786`")
    from .dask_engine import run_on_dask

    if options.store is not None:
        open_store(options.store).check_writable()
        share(graph, options.store)
    run_on_dask(graph, f"tcp://{parts.hostname}:{port}", options, tell, name, watch)
    if options.store is not None:
        fetch(graph, options.store, leave=_REMADE)


def _inputs(action: Action, outputs: list[Output]) -> list[Output]:
    """What of the outputs of a need an action reads: of a lowering, a compile reads its own graphs alone."""
    if action.kind != "compile" or (facts := unit_facts(action)) is None:
        return outputs
    kind, key = facts["input"]  # type: ignore[misc]
    return [Output(kind, key)]
