"""The command line: `edgec compile | check | run | verify | inspect | passes | devices | explain | …`.

Results go to stdout, progress and diagnostics to stderr; with `--json` stdout holds one JSON document and nothing else.
Exit codes: 0 done, 1 the plan or an input is wrong, 2 usage, 3 something does not hold, 4 an engine or tool failed.
Each command imports what it needs when it runs: `check` must answer within 0.3 s.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from .commands.arguments import Parser
from .commands.leaving import leave, remove_leftovers
from .commands.options import OPTIONS
from .commands.signals import arrived, exit_code, signals_end
from .commands.streams import flush, give_up_stdout, one_document, print_json, program_streams
from .commands.terminal import show, tell, told
from .diagnostics.diagnostic import EdgecError, explain_failure, to_json
from .diagnostics.warn import listening


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; without `argv` as the process's own, whose streams it then takes."""
    if argv is not None:
        return _run_command(argv)
    with program_streams():
        try:
            code = _run_command(sys.argv[1:])
        except SystemExit as left:  # argparse has said what there is to say
            code = _flushed(left.code if isinstance(left.code, int) else 2)
        return leave(code)


def _run_command(words: Sequence[str]) -> int:
    arguments = _parser().parse(words)
    told()  # of a command before this one in the same process
    try:
        with signals_end(), listening(tell):
            if arguments.tidies:
                remove_leftovers()
            with one_document() if getattr(arguments, "json", False) else nullcontext():
                code = arguments.run(arguments)
                flush()
        return code if not code or (ended := arrived()) is None else exit_code(ended)
    except BrokenPipeError:  # `edgec inspect … | head` is no failure
        give_up_stdout()
        return 0
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        return exit_code(interrupt)
    except SystemExit as left:
        if left.code:  # a mistake of usage, told already
            raise
        return _failed(left, arguments)  # nobody but this module ends a command well
    except BaseException as problem:  # the last boundary: what is no EdgecError yet becomes one
        if (ended := arrived()) is not None:
            print("interrupted", file=sys.stderr)
            return exit_code(ended)
        return _failed(problem, arguments)


def _flushed(code: int) -> int:
    try:
        flush()
    except OSError:
        give_up_stdout()
        return code or 1
    return code


def _failed(problem: BaseException, arguments: argparse.Namespace) -> int:
    error = problem if isinstance(problem, EdgecError) else explain_failure(problem)
    try:
        if getattr(arguments, "json", False):
            print_json({"ok": False, "diagnostics": to_json([*told(), *error.diagnostics])})
        flush()
    except OSError:
        give_up_stdout()
    show(error.diagnostics, error.sources)
    if arguments.debug:
        raise problem
    return error.exit_code


class _Version(argparse.Action):
    """Looked up only when asked for: the package's metadata costs a tenth of `check`'s time."""

    def __call__(self, parser: argparse.ArgumentParser, *_rest: object) -> None:
        import importlib.metadata

        print(f"edgec {importlib.metadata.version('edgec')}")
        parser.exit(0)


class _Command(NamedTuple):
    """`run` is a function here, or `module:function` below `commands`, imported when the command runs."""

    help: str
    run: Callable[[argparse.Namespace], int] | str
    json: bool = True
    tidies: bool = False  # what killed commands left is removed first


def _parser() -> Parser:
    parser = Parser(prog="edgec", description="Compile a deployment plan for an on-device LLM.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, row in _COMMANDS.items():
        command = commands.add_parser(name, help=row.help, description=row.help)
        if name in OPTIONS:
            OPTIONS[name](command)
        if row.json:
            command.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        command.add_argument("--debug", action="store_true", help="show the stack trace of a failure")
        run = _later(row.run) if isinstance(row.run, str) else row.run
        command.set_defaults(run=run, parser=parser, tidies=row.tidies)
    return parser


def _later(place: str) -> Callable[[argparse.Namespace], int]:
    module, _, function = place.partition(":")

    def run(arguments: argparse.Namespace) -> int:
        return getattr(importlib.import_module(f".commands.{module}", __package__), function)(arguments)

    return run


def _run_schema(_arguments: argparse.Namespace) -> int:
    print((Path(__file__).parent / "bundle" / "manifest.schema.json").read_text(encoding="utf-8"), end="")
    return 0


_COMMANDS: dict[str, _Command] = {
    "init": _Command("write a first plan for a model and a device, with the reason for each line", "init:run_init"),
    "compile": _Command("compile a plan into a bundle", "compile:run_compile", tidies=True),
    "action": _Command("do one action of a compile, on any machine", "actions:run_action", tidies=True),
    "check": _Command("find every mistake in a plan, without reading a weight", "check:run_check", tidies=True),
    "estimate": _Command("estimate rates on the device, and time and memory of the compile", "estimate:run_estimate"),
    "sweep": _Command(
        "compile a plan with every combination of values, and show which are best", "sweep:run_sweep", tidies=True
    ),
    "tune": _Command(
        "choose the values of a plan's `tune(…)`: every requirement met, one goal best", "tune:run_tune", tidies=True
    ),
    "prove": _Command("run what no conformance table holds of a plan, and keep the rows", "prove:run_prove"),
    "profile": _Command("measure what passes such as `shadow` profile of the plan's models", "profile:run_profile"),
    "run": _Command("run a bundle on this machine", "run:run_run", tidies=True),
    "verify": _Command(
        "check a bundle: hashes, binaries, errors against the float model, perplexity", "run:run_verify", tidies=True
    ),
    "push": _Command("copy a bundle onto a phone, through adb", "push:run_push", tidies=True),
    "unpack": _Command(
        "restore the packed weight files of a bundle, as engines read them", "unpack:run_unpack", tidies=True
    ),
    "inspect": _Command("describe a plan, a model, a bundle or a file of one", "inspect:run_inspect"),
    "cache": _Command(
        "list what the cache holds, check it, or remove what is not used", "cache:run_cache", tidies=True
    ),
    "passes": _Command("list the installed passes, or the parameters of one", "lists:run_passes"),
    "devices": _Command("list the devices a plan can name, or the figures of one", "lists:run_devices"),
    "explain": _Command("explain an error code", "lists:run_explain", json=False),
    "help": _Command("explain edgec, or one of its commands", "completion:run_help", json=False),
    "completion": _Command(
        'complete words in a shell: eval "$(edgec completion bash)"',
        "completion:run_completion",
        json=False,
    ),
    "schema": _Command("print the JSON Schema of a bundle's manifest", _run_schema, json=False),
}


if __name__ == "__main__":
    sys.exit(main())
