"""`edgec check`: every mistake of a plan, and every refusal of its targets, without reading a weight."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..diagnostics.diagnostic import Diagnostic, to_json
from ..diagnostics.visible import visible
from ..diagnostics.wording import count
from .streams import print_json
from .terminal import accepted, show, told


def run_check(arguments: argparse.Namespace) -> int:
    """Check plans; exit 1 when one of them has errors."""
    found = {str(plan): _check(plan, arguments) for plan in arguments.plans}
    if arguments.json:
        documents = {name: {"ok": ok, "diagnostics": to_json(said)} for name, (ok, said) in found.items()}
        several = {"ok": all(ok for ok, _ in found.values()), "plans": documents}
        document = several if len(arguments.plans) > 1 else next(iter(documents.values()))
        print_json(document)
    return 0 if all(ok for ok, _ in found.values()) else 1


def _check(path: Path, arguments: argparse.Namespace) -> tuple[bool, list[Diagnostic]]:
    """Whether one plan is right, and everything that was said of it, which is shown here."""
    from ..driver import check_plan, read_plan_text

    def say(text: str) -> None:
        if not arguments.json:
            print(visible(f"{path}: {text}"), file=sys.stderr)

    text = read_plan_text(sys.stdin.buffer, "<stdin>") if str(path) == "-" else None
    path = Path("<stdin>") if text is not None else path
    plan, diagnostics, sources = check_plan(path, arguments.defines, text, arguments.fast, say, not arguments.no_prove)
    wrong = plan is None
    show(diagnostics, sources)
    errors = sum(d.severity == "error" for d in diagnostics)
    if not arguments.json:
        if said := accepted(diagnostics):
            print(visible(said), file=sys.stderr)
        warnings = sum(d.severity == "warning" and not d.accepted for d in diagnostics)
        counts = (errors, "error"), (warnings, "warning")
        said = [count(number, word) for number, word in counts if number]
        print(visible(f"{path}: {', '.join(said) or 'ok'}"), file=sys.stderr if wrong else sys.stdout)
    return not wrong, [*diagnostics, *told()]
