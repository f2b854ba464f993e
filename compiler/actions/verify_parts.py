"""The parts of a finished bundle looked into as actions: several at a time, and never again while nothing changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..bundle.manifest import Manifest, load_manifest
from ..compile.options import CompileOptions
from ..diagnostics.diagnostic import fail
from ..emit.fork_server import workers
from ..verify.part_check import PartOf, check_part, parts_of_chips
from . import records
from .action import Action, Graph
from .executor import run_graph, within
from .facts import digest, own_code, tools_fact
from .local import LocalRunner
from .processes import resident
from .scheduler import Limits
from .several import telling

_PROCESS = 0.35e9  # bytes of a process with an engine
_IMPORTS = ("edgec.compiler.verify.part_check",)


def check_parts(manifest: Manifest, options: CompileOptions, worker: str) -> dict[PartOf, dict[str, Any]]:
    """What `check_part` says of every part; the files were compared with the manifest's digests before.

    EdgecError where a process could not say it.
    """
    graph, keys = Graph(), dict[PartOf, str]()
    for (name, chip), entry in parts_of_chips(manifest):
        size = sum(facts["size"] for _, facts in _files(manifest, entry))
        asked = {"bundle": os.path.abspath(manifest.bundle), "part": name, "chip": chip}
        facts = part_facts(manifest, entry)
        action = Action("verify", f"{name} for {chip}", facts, (), asked, _PROCESS + 2.0 * size, 1 + size / 1e8)
        keys[name, chip] = graph.add(action)
    limits = Limits(options.jobs, options.memory)
    with workers(worker, _IMPORTS) as server:
        within(graph, limits, resident(os.getpid()))
        outcome = run_graph(graph, LocalRunner(worker, None, server), limits, telling(options.progress), True)
    if (error := outcome.error()) is not None:
        raise error
    found = {one: records.known(key) for one, key in keys.items()}
    return {one: held.facts for one, held in found.items() if held is not None}


def part_facts(manifest: Manifest, entry: dict[str, Any]) -> dict[str, str]:
    """What a look into a part hangs on: its entry, the files of its model, edgec's code, the engines."""
    files = [(name, facts["sha256"]) for name, facts in _files(manifest, entry)]
    return {"part": digest(sorted(entry.items())), "files": digest(files), "code": own_code(), "tools": tools_fact()}


def verify_part(action: Action) -> dict[str, Any]:
    """Do a `verify` action; E0971 where the bundle is another one by now."""
    asked = action.request
    manifest = load_manifest(Path(asked["bundle"]))
    entry = dict(parts_of_chips(manifest)).get((asked["part"], asked["chip"]))
    if entry is None or part_facts(manifest, entry) != dict(action.facts):
        message = f"`{asked['bundle']}` is not the bundle that `{action.label}` was made from here"
        fail("E0971", message, help="verify it again; a worker needs the same edgec, engines and files as who planned")
    return check_part(manifest.bundle, entry)


def _files(manifest: Manifest, entry: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The files of the part's model, in the order of their names."""
    folder = f"{entry['model']}/"
    return sorted((name, facts) for name, facts in manifest.files.items() if name.startswith(folder))
