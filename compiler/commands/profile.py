"""`edgec profile`: what the passes of a plan measure of its models; tables on stdout, the profile itself as a file."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..diagnostics.diagnostic import fail, to_json
from ..diagnostics.wording import quoted
from .compile import Progress
from .streams import print_json
from .terminal import show, told

if TYPE_CHECKING:
    from ..driver import Profiled


def run_profile(arguments: argparse.Namespace) -> int:
    """Measure; with `--output` the profile is written to the file as well."""
    from ..compile.profile import profiled
    from ..driver import load_plan, profile_plan

    plan = load_plan(arguments.plan, arguments.defines)
    shown = told()
    show([one for one in plan.warnings if one not in shown], plan.sources)
    if arguments.output is not None:
        _check_output(arguments.output, profiled(plan))
    with Progress(quiet=arguments.quiet or arguments.json) as progress:
        found = profile_plan(plan, progress.say)
    if arguments.output is not None and found:
        try:
            arguments.output.write_text(found[0].text, encoding="utf-8")
        except OSError as error:
            _unwritable(arguments.output, error.strerror)
    if arguments.json:
        warnings = to_json([*plan.warnings, *told()])
        profiles = {one.model: json.loads(one.text) for one in found}
        print_json({"ok": True, "profiles": profiles, "warnings": warnings})
        return 0
    for one in found:
        _print(one)
    return 0


def _check_output(path: Path, models: Sequence[str]) -> None:
    """E0961 for a file that could not be written, or could not hold what is measured: before anything is."""
    if len(models) > 1:
        message = f"the plan has {len(models)} profiles, of {', '.join(quoted(models))}, and `--output` is one file"
        fail("E0961", message, help="`--json` prints all of them")
    if path.is_dir():
        _unwritable(path, "it is a folder")
    if not path.parent.is_dir():
        _unwritable(path, f"there is no folder `{path.parent}`")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        _unwritable(path, "permission is denied")


def _unwritable(path: Path, why: str | None) -> NoReturn:
    fail("E0961", f"`{path}` cannot be written: {why}", help="name a file in a folder that is there")


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
