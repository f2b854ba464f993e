"""`edgec init`: write a first plan for a model and a device."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..diagnostics.visible import visible
from .streams import print_json, print_line
from .terminal import meanwhile, show

_SHOWN = 6  # forms that did not hold


def run_init(arguments: argparse.Namespace) -> int:
    """Write the plan that holds; an older file is left alone without `--force`."""
    from ..files.new_file import write_new
    from ..first_plan.choose import Request, first_plan

    def say(text: str) -> None:
        if not arguments.json:
            print(visible(text), file=sys.stderr)

    output = arguments.output or Path("plan.edge")
    made = first_plan(
        Request(
            model=arguments.model,
            output=output,
            device=arguments.device,
            memory=arguments.memory,
            draft=arguments.draft,
            context=arguments.context,
            texts=tuple(arguments.text),
            evaluation=tuple(arguments.evaluation),
            force=arguments.force,
        ),
        say,
    )
    write_new(output, made.text, arguments.force)
    show(made.warnings, {str(output): made.text})
    if arguments.json:
        from ..compile.estimate_plan import as_json

        facts = {"ok": True, "plan": str(output), "text": made.text, "tried": list(made.tried)}
        print_json({**facts, "estimate": as_json(made.estimate), **meanwhile()})
        return 0
    for line in made.tried[:_SHOWN]:
        print(visible(f"not {line}", lines=True), file=sys.stderr)
    if len(made.tried) > _SHOWN:
        print(f"and {len(made.tried) - _SHOWN} more that did not hold", file=sys.stderr)
    print_line(f"{output}: {', '.join(f'{one.model} on {one.device} as {one.target}' for one in made.plan.deploys)}")
    rate = made.estimate.decode
    said = f"{rate:.1f} tok/s estimated, " if rate is not None else ""
    peak = sum(entry["peak"] for entry in made.estimate.memory.values())
    print_line(f"  {said}{peak / 1e6:,.1f} MB of memory; next: edgec compile {output}")
    return 0
