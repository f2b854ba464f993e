"""`edgec sweep`: every combination of values of a plan's lets, in one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..diagnostics.visible import visible
from ..diagnostics.wording import count
from .compile import Progress, farm_options
from .streams import print_json, print_line
from .terminal import meanwhile, show

if TYPE_CHECKING:
    from ..search.sweep import Sweep


def run_sweep(arguments: argparse.Namespace) -> int:
    """Make the points and print them; the exit code of the first that failed, 0 where all have a bundle."""
    from ..files.cache import make_folder
    from ..files.new_file import check_new, write_new
    from ..search.page import page
    from ..search.sweep import sweep

    if arguments.html is not None:
        check_new(arguments.html, arguments.force)
    if arguments.output is not None:
        make_folder(arguments.output, "give `-o` a folder that can be written")
    with Progress(quiet=arguments.quiet or arguments.json) as progress:
        found = sweep(
            Path(arguments.plan),
            arguments.defines,
            farm_options(arguments, progress.say),
            keep=arguments.output,
            most=arguments.most,
        )
    if arguments.html is not None:
        write_new(arguments.html, page(found), arguments.force)
    if arguments.json:
        print_json({**found.entry(), **meanwhile()})
    else:
        _print(found, arguments.html)
    return found.failed[0].exit_code if found.failed else 0


def _print(found: Sweep, html: Path | None) -> None:
    from ..search.table import lines

    for line in lines(found.points):
        print_line(line)
    hits, made = (sum(counts[at] for counts in found.shared.values()) for at in (0, 1))
    best = "* on the front; " if found.front else ""
    print_line(f"{best}{hits} entries of the cache were there, {made} were made")
    if html is not None:
        print_line(f"page: {html}")
    left_out = [point for point in found.points if not point.run]
    for first in found.failed[:1]:
        show([first.error] if first.error is not None else [], dict(first.sources))
    if left_out:
        were = "was" if len(left_out) == 1 else "were"
        said = f"{count(len(left_out), 'point')} {were} not run: `--keep-going` makes those that can be"
        print_line(visible(said))
