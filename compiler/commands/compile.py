"""`edgec compile`: progress on stderr, a summary (or one JSON document) on stdout."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import Diagnostic
from ..diagnostics.progress import Passing, Sparse
from ..diagnostics.visible import visible
from .streams import print_json, print_line
from .terminal import accepted, show, told

if TYPE_CHECKING:
    from ..driver import CompileOptions

_NOTES = 12  # of a model, in the summary


def run_compile(arguments: argparse.Namespace) -> int:
    """Compile a plan; exit 3 when a `require` line does not hold."""
    from ..driver import BrokenRequirement, compile_plan, load_plan, remember_bundle, unchanged

    started = time.perf_counter()
    plan = load_plan(arguments.plan, arguments.defines)
    shown = told()
    show([one for one in plan.warnings if one not in shown], plan.sources)
    if said := accepted(plan.warnings):
        print(visible(said), file=sys.stderr)
    if arguments.explain_actions or arguments.emit:
        from .actions import run_without_compiling

        return run_without_compiling(plan, arguments)
    debugging = _debugging(arguments)
    again = not debugging and arguments.store is None  # what is kept goes into a store that lacks it
    if again and (held := unchanged(plan, arguments.output)) is not None:
        held["seconds"] = round(time.perf_counter() - started, 2)
        return _said_again(held, arguments)
    with Progress(quiet=arguments.quiet or arguments.json) as progress:
        options = compile_options(arguments, progress.say)
        broken: tuple[Diagnostic, ...] = ()
        try:
            result = compile_plan(plan, arguments.output, options)
        except BrokenRequirement as error:
            result, broken = error.result, error.diagnostics
    shown += [*plan.warnings, *told()]
    show([one for one in result.warnings if one not in shown], plan.sources)
    show(broken, plan.sources)
    facts = _facts(result, time.perf_counter() - started)
    if not broken and not debugging:
        remember_bundle(plan, result, facts)
    if arguments.json:
        print_json(facts)
    else:
        _print(facts)
    return 3 if broken else 0


def compile_options(arguments: argparse.Namespace, say: Callable[[str], None]) -> CompileOptions:
    """The options of a command line. Several actions at a time, and counted memory, take processes of their own."""
    from dataclasses import replace

    from ..driver import keeping

    debugging, farm = _debugging(arguments), farm_options(arguments, say)
    options = replace(
        farm,
        print_after=tuple(arguments.print_after),
        time_passes=arguments.time_passes,
        verify_each=arguments.verify_each,
        explain_skips=arguments.explain_skips,
        prove=not arguments.no_prove,
        actions=farm.actions and not debugging,
    )
    return options if debugging or options.actions else keeping(options)  # actions are kept anyway


def farm_options(arguments: argparse.Namespace, say: Callable[[str], None]) -> CompileOptions:
    """How many actions run at a time, in what memory, and where: the options that several commands have."""
    from ..driver import by_actions

    return by_actions(
        arguments.jobs, arguments.memory, arguments.on, arguments.store, getattr(arguments, "keep_going", False), say
    )


def _debugging(arguments: argparse.Namespace) -> bool:
    """Whether passes are to be watched, for which they have to run here and now."""
    return bool(arguments.print_after or arguments.time_passes or arguments.verify_each or arguments.explain_skips)


def _said_again(facts: dict[str, Any], arguments: argparse.Namespace) -> int:
    """What a compile with nothing to do prints."""
    if arguments.json:
        print_json(facts)
        return 0
    if not arguments.quiet:
        print("nothing to do: the bundle was made from these inputs, and its files are as they were", file=sys.stderr)
    _print(facts)
    return 0


class Progress:
    """One line on stderr that changes on a terminal, lines elsewhere."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.text import Text

        self.plain = Text  # brackets in names of ops are no markup
        self.console = Console(stderr=True, quiet=quiet)
        self.status = self.console.status("") if self.console.is_terminal and not quiet else None
        self.started, self.sparse = time.perf_counter(), Sparse()

    def __enter__(self) -> Progress:
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self.status:
            self.status.stop()

    def say(self, text: str) -> None:
        """A line of progress, with the seconds so far."""
        if self.status and isinstance(text, Passing):
            self.status.update(self.plain(visible(text)))
            return
        if not self.sparse.lets(text):
            return
        stamp = f"{time.perf_counter() - self.started:6.1f} s  "
        text = visible(text, lines=True)
        self.console.print(f"{stamp}{text}", highlight=False, markup=False)
        if self.status:
            self.status.update(self.plain(text))


def _facts(result: Any, seconds: float) -> dict[str, Any]:
    return {
        "ok": all(row["holds"] for row in result.measured.requires),
        "bundle": str(result.bundle),
        "bytes": result.size,
        "seconds": round(seconds, 2),
        "models": {model.name: _model_facts(model, result) for model in result.models},
        "requires": result.measured.requires,
        "warnings": result.manifest["warnings"],
    }


def _model_facts(model: Any, result: Any) -> dict[str, Any]:
    measured = result.measured
    return {
        "bytes": result.manifest["models"][model.name]["bytes"],
        "target": model.deploy.target,
        "device": model.deploy.device,
        "parts": list(model.emission.parts),
        "perplexity": measured.perplexity.get(model.name),
        "baseline": measured.baseline.get(model.name),
        "judged": str(measured.judged[model.name]) if model.name in measured.judged else None,
        "seconds": {key: round(value, 2) for key, value in model.seconds.items()},
        "notes": model.notes(),
        "tables": [asdict(table) for step in model.steps for table in step.tables],
    }


def _print(facts: dict[str, Any]) -> None:
    print_line(f"{facts['bundle']}  {facts['bytes'] / 1e6:.2f} MB in {facts['seconds']:.1f} s")
    width = max(map(len, facts["models"]), default=0)
    for name, model in facts["models"].items():
        line = f"  {name:<{width}}  {model['target']} on {model['device']}, {model['bytes'] / 1e6:.2f} MB"
        if model["perplexity"]:
            ratio = model["perplexity"] / model["baseline"]
            line += f", perplexity {model['perplexity']:.4f} ({ratio:.4f} of the float model's; {model['judged']})"
        print_line(line)
        if len(model["parts"]) > 1:
            print_line(f"  {'':<{width}}  parts: {', '.join(model['parts'])}")
        for note in model["notes"][:_NOTES]:
            print_line(f"  {'':<{width}}  note: {note}")
        if len(model["notes"]) > _NOTES:
            print_line(f"  {'':<{width}}  and {len(model['notes']) - _NOTES} more notes, in the report")
    for row in facts["requires"]:
        verdict = "holds" if row["holds"] else "does not hold"
        print_line(f"  {verdict}: {row['line']}   ({row['text']})")
    print_line(f"  report: {facts['bundle']}/report.html")
