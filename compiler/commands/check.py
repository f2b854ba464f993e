"""`edgec check`: every mistake of a plan, and every refusal of its targets, without reading a weight."""

from __future__ import annotations

import argparse
import json
import sys

from ..diagnostics.diagnostic import to_json
from ..diagnostics.wording import count
from .terminal import accepted, show


def run_check(arguments: argparse.Namespace) -> int:
    """Check a plan; exit 1 when it has errors."""
    from ..driver import check_plan

    def say(text: str) -> None:
        if not arguments.json:
            print(f"{arguments.plan}: {text}", file=sys.stderr)

    plan, diagnostics, sources = check_plan(arguments.plan, arguments.defines, fast=arguments.fast, progress=say)
    wrong = plan is None
    if arguments.json:
        document = {"ok": not wrong, "diagnostics": to_json(diagnostics)}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    show(diagnostics, sources)
    errors = sum(d.severity == "error" for d in diagnostics)
    if not arguments.json:
        if said := accepted(diagnostics):
            print(said, file=sys.stderr)
        open_ = sum(not d.accepted for d in diagnostics)
        counts = (errors, "error"), (open_ - errors, "warning")
        said = [count(number, word) for number, word in counts if number]
        print(f"{arguments.plan}: {', '.join(said) or 'ok'}", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0
