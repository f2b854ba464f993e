"""`edgec compile --explain-actions`, `--emit snakemake DIR`, and `edgec action run FILE`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import fail
from ..diagnostics.nearest import nearest_help
from .streams import print_json, print_line

if TYPE_CHECKING:
    from ..plan.plan import Plan

ENGINES = ("snakemake",)


def run_without_compiling(plan: Plan, arguments: argparse.Namespace) -> int:
    """Print the actions of a plan, or write them for a workflow engine."""
    from ..driver import CompileOptions, action_graph

    if arguments.emit and arguments.emit[0] not in ENGINES:
        help = nearest_help(arguments.emit[0], ENGINES, "engine") or "known: `snakemake`"
        fail("E0973", f"no workflow engine `{arguments.emit[0]}` is known", help=help)
    ran = action_graph(plan, CompileOptions(prove=not arguments.no_prove))
    if arguments.emit:
        from ..actions.snakefile import write_snakefile

        folder = Path(arguments.emit[1])
        made = write_snakefile(folder, plan, ran.graph, arguments.output, arguments.store)
        facts = {"ok": True, "snakefile": str(made), "actions": len(ran.graph)}
        if arguments.json:
            print_json(facts)
        else:
            print_line(f"{made}: {len(ran.graph)} actions; run `snakemake --directory {folder} --cores 2`")
        return 0
    from ..actions.explain import rows

    found = rows(ran.graph, str(plan.path))
    if arguments.json:
        print_json({"ok": True, "plan": plan.name, "actions": found})
        return 0
    names = {row["key"]: f"{row['kind']} {row['name']}" for row in found}
    width = max((len(name) for name in names.values()), default=0)
    for row in found:
        cost = f"{row['memory'] / 1e9:5.2f} GB  {row['seconds']:7.1f} s"
        print_line(f"{row['state']:<7} {names[row['key']]:<{width}}  {row['key'][:12]}  {cost}  {row['why']}".rstrip())
        if row["needs"]:
            print_line(f"        {'':<{width}}  needs {', '.join(names[need] for need in row['needs'])}")
    left = [row for row in found if row["state"] == "runs"]
    print_line(
        f"{len(found)} actions, {len(found) - len(left)} cached; {len(left)} to run, about "
        f"{sum(row['seconds'] for row in left):.0f} s of work, at most "
        f"{max((row['memory'] for row in left), default=0) / 1e9:.1f} GB each"
    )
    return 0


def run_action(arguments: argparse.Namespace) -> int:
    """Do one action from its description."""
    from dataclasses import asdict

    from ..actions.action import load_description
    from ..actions.elsewhere import perform_with_store
    from ..driver import load_request
    from ..files.cache import make_root
    from .compile import Progress

    make_root()
    action = load_description(arguments.file)
    with Progress(quiet=arguments.quiet or arguments.json) as progress:
        made = perform_with_store(action, arguments.store, load_request, progress.say)
    facts = {"key": action.key, "kind": action.kind, "name": action.name, **asdict(made)}
    if arguments.result is not None:
        arguments.result.parent.mkdir(parents=True, exist_ok=True)
        arguments.result.write_text(json.dumps(facts, sort_keys=True) + "\n", encoding="utf-8")
    if arguments.json:
        print_json({"ok": True, **facts})
    else:
        print_line(f"{action.label}: {made.seconds:.1f} s, {made.peak / 1e9:.2f} GB")
    return 0
