"""The actions of a plan as a Snakefile: a rule each, with the memory and the files it waits for.

    DIR/Snakefile             rules; `snakemake --directory DIR --cores N --resources mem_mb=M` runs them
    DIR/actions/<key>.json    a description each
    DIR/done/<key>.json       written by a rule when its action has run

The last rule puts the bundle together, from results that are all in the cache then. `--config edgec=COMMAND` names
another edgec than the first on the path.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import fail
from ..files.cache import cache_root
from . import records
from .action import Action, Graph
from .store import absolute

if TYPE_CHECKING:
    from ..plan.plan import Plan

_SHORT = 16  # letters of a key in names of files
_HEAD = """# {count} actions of the plan `{plan}`, written by edgec; run it with
#     snakemake --directory {folder} --cores 2 --resources mem_mb=16000
EDGEC = config.get("edgec", "edgec")

rule all:
    input: "done/bundle.json"
"""


def write_snakefile(folder: Path, plan: Plan, graph: Graph, output: Path | None, store: str | None) -> Path:
    """Write the Snakefile and the descriptions into `folder`; its path. E0955 where they cannot be written."""
    store = None if store is None else absolute(store)
    try:
        (folder / "actions").mkdir(parents=True, exist_ok=True)
        for key, action in graph:
            (folder / "actions" / f"{key[:_SHORT]}.json").write_text(action.described(), encoding="utf-8")
        text = _HEAD.format(count=len(graph), plan=plan.name, folder=folder)
        text += "".join(_rule(key, action, store) for key, action in graph) + _bundle(plan, graph, output, store)
        (folder / "Snakefile").write_text(text, encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fail("E0955", f"`{folder}` cannot be written: {reason}", help="give `--emit snakemake` another folder")
    return folder / "Snakefile"


def _rule(key: str, action: Action, store: str | None) -> str:
    memory, seconds = records.corrected(action)
    waits = [f"done/{need[:_SHORT]}.json" for need in action.needs]
    short = key[:_SHORT]
    command = f"{_cache(store)}{{EDGEC}} action run actions/{short}.json --result {{output}} --quiet{_store(store)}"
    return _text(f"{action.kind}_{short}", waits, f"done/{short}.json", command, memory, seconds, action.label)


def _bundle(plan: Plan, graph: Graph, output: Path | None, store: str | None) -> str:
    final = os.path.abspath(output if output is not None else Path("build") / plan.name)
    words = ["compile", os.path.abspath(plan.path), "-o", final, "--quiet", "--json"]
    for name in plan.sources:
        if name.startswith("-D "):
            words += ["-D", name.removeprefix("-D ")]
    waits = [f"done/{key[:_SHORT]}.json" for key, _ in graph]
    command = f"{_cache(store)}{{EDGEC}} {_escaped(shlex.join(words))}{_store(store)} > {{output}}"
    return _text("bundle", waits, "done/bundle.json", command, 1e9, 10.0, f"the bundle {final}")


def _text(name: str, waits: list[str], done: str, command: str, memory: float, seconds: float, what: str) -> str:
    inputs = "".join(f"\n        {json.dumps(one)}," for one in waits)
    return (
        f"\nrule {name}:  # {what}\n" + (f"    input:{inputs}\n" if waits else "") + f"    output: {json.dumps(done)}\n"
        f"    threads: 1\n    resources:\n        mem_mb={max(1, round(memory / 1e6))},\n"
        f"        runtime={max(1, round(seconds / 60) + 10)}\n    shell: {json.dumps(command)}\n"
    )


def _cache(store: str | None) -> str:
    """Without a store, every machine has to see this one's cache."""
    return "" if store is not None else f"EDGEC_CACHE={_escaped(shlex.quote(str(cache_root().resolve())))} "


def _store(store: str | None) -> str:
    return "" if store is None else f" --store {_escaped(shlex.quote(store))}"


def _escaped(text: str) -> str:
    """For Snakemake, which reads braces as places to fill in."""
    return text.replace("{", "{{").replace("}", "}}")
