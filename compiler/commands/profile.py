"""`edgec profile`: what the passes of a plan measure of its models; tables on stdout, the profile itself as a file."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import fail, to_json
from .compile import Progress
from .streams import print_json
from .terminal import show, told

if TYPE_CHECKING:
    from ..driver import Profiled


def run_profile(arguments: argparse.Namespace) -> int:
    """Measure; with `--output` the profile is written to the file as well."""
    from ..driver import load_plan, profile_plan

    plan = load_plan(arguments.plan, arguments.defines)
    shown = told()
    show([one for one in plan.warnings if one not in shown], plan.sources)
    with Progress(quiet=arguments.quiet or arguments.json) as progress:
        found = profile_plan(plan, progress.say)
    if arguments.output is not None:
        if len(found) > 1:
            names = ", ".join(f"`{one.model}`" for one in found)
            message = f"the plan has {len(found)} profiles, of {names}, and `--output` is one file"
            fail("E0961", message, help="`--json` prints all of them")
        try:
            arguments.output.write_text(found[0].text, encoding="utf-8")
        except OSError as error:
            message = f"`{arguments.output}` cannot be written: {error.strerror}"
            fail("E0961", message, help="name a file in a folder that is there")
    if arguments.json:
        warnings = to_json([*plan.warnings, *told()])
        profiles = {one.model: json.loads(one.text) for one in found}
        print_json({"ok": True, "profiles": profiles, "warnings": warnings})
        return 0
    for one in found:
        _print(one)
    return 0


def _print(one: Profiled) -> None:
    from rich.console import Console
    from rich.table import Table

    for table in one.result.tables:
        made = Table(*table.head, title=f"{one.model}: {table.title}", box=None, title_justify="left")
        for row in table.rows:
            made.add_row(*row)
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else 240).print(made)
    for note in one.result.notes:
        print(f"{one.model}: {note}")
