"""`edgec prove`: run what no conformance table holds of a plan; rows on stdout, progress on stderr."""

from __future__ import annotations

import argparse

from ..diagnostics.diagnostic import to_json
from .compile import Progress
from .streams import print_json
from .terminal import show, told


def run_prove(arguments: argparse.Namespace) -> int:
    """Prove a plan; exit 1 when a row is wrong, which is then an error at the plan's line."""
    from ..driver import load_plan, prove_plan

    plan = load_plan(arguments.plan, arguments.defines)
    shown = told()
    show([one for one in plan.warnings if one not in shown], plan.sources)
    with Progress(quiet=arguments.quiet or arguments.json) as progress:
        found = prove_plan(plan, progress.say)
    if arguments.json:
        warnings = to_json([*plan.warnings, *told()])
        print_json({"ok": True, "rows": [one.facts() for one in found], "warnings": warnings})
        return 0
    for one in found:
        print(one.text)
    print(f"{arguments.plan}: {len(found)} run, all right" if found else f"{arguments.plan}: nothing to prove")
    return 0
