"""`edgec tune`: choose the values of a plan's `tune(…)` lets, and write the plan that won."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .compile import Progress, farm_options
from .streams import print_json, print_line
from .terminal import meanwhile

if TYPE_CHECKING:
    from ..search.tune import Tuned

_SHOWN = 16  # rows of the table


def run_tune(arguments: argparse.Namespace) -> int:
    """Search, print the best points, write the plan; exit 3 where none meets every `require` line."""
    from ..files.new_file import check_new, write_new
    from ..search.tune import Wanted, tune_plan, tuned_path

    path: Path = arguments.plan
    output = arguments.output or tuned_path(path)
    check_new(output, arguments.force)
    wanted = Wanted(arguments.goal, arguments.time, arguments.runs, arguments.trials)
    with Progress(quiet=arguments.quiet or arguments.json) as progress:
        found = tune_plan(path, arguments.defines, output, wanted, farm_options(arguments, progress.say))
    write_new(output, found.text, arguments.force)
    if arguments.json:
        print_json({**found.entry(), **meanwhile()})
    else:
        _print(found)
    return 0


def _print(found: Tuned) -> None:
    from ..search.table import lines

    points = found.points
    for line in lines(points[:_SHOWN]):
        print_line(line)
    if len(points) > _SHOWN:
        print_line(f"and {len(points) - _SHOWN} more that were looked at; `--json` has all")
    print_line(f"* on the front; {found.engine_runs} were compiled, the others estimated: {found.why}")
    print_line(f"{found.output}: {found.winner.name}")
