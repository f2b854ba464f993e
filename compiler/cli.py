"""The command line: `edgec compile | check | run | verify | inspect | passes | devices | explain | schema`.

Results go to stdout, progress and diagnostics to stderr; with `--json` stdout holds one JSON document and nothing else.
Exit codes: 0 done, 1 the plan or an input is wrong, 2 usage, 3 something does not hold, 4 an engine or tool failed.
Each command imports what it needs when it runs: `check` must answer within 0.3 s.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .diagnostics import Diagnostic, EdgecError, render, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except EdgecError as error:
        _report(error.diagnostics, getattr(arguments, "sources", None), _wants_json(arguments))
        if getattr(arguments, "debug", False):
            raise
        return error.exit_code
    except BrokenPipeError:  # `edgec inspect … | head` is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _report(diagnostics: Sequence[Diagnostic], sources: Mapping[str, str] | None, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"ok": False, "diagnostics": to_json(diagnostics)}, indent=2))
    for diagnostic in diagnostics:
        print(render(diagnostic, sources, color=_colour()), end="\n\n", file=sys.stderr)


def _colour() -> bool:
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ


def _wants_json(arguments: argparse.Namespace) -> bool:
    return bool(getattr(arguments, "json", False))


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edgec", description="Compile a deployment plan for an on-device LLM.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        _add_compile,
        _add_check,
        _add_run,
        _add_verify,
        _add_inspect,
        _add_passes,
        _add_devices,
        _add_explain,
        _add_schema,
    ):
        add(commands)
    return parser


class _Version(argparse.Action):
    """Looked up only when asked for: the package's metadata costs a tenth of `check`'s time."""

    def __call__(self, parser: argparse.ArgumentParser, *_rest: object) -> None:
        import importlib.metadata

        parser.exit(0, f"edgec {importlib.metadata.version('edgec')}\n")


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help)
    command.set_defaults(run=run)
    command.add_argument("--debug", action="store_true", help="show the stack trace of a failure")
    return command


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def _add_plan(command: argparse.ArgumentParser) -> None:
    command.add_argument("plan", type=Path, help="the plan, a .edge or .plan file")
    command.add_argument("-D", dest="defines", action="append", default=[], metavar="NAME=VALUE", help="override a let")
    _add_json(command)


def _add_compile(commands: Any) -> None:
    command = _command(commands, "compile", _compile, "compile a plan into a bundle")
    _add_plan(command)
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="the bundle (default build/<plan name>)")
    command.add_argument("--jobs", type=_positive, default=1, metavar="N", help="models compiled at a time (default 1)")
    command.add_argument(
        "--print-after", action="append", default=[], metavar="PASS", help="print the graph after PASS"
    )
    command.add_argument("--time-passes", action="store_true", help="print the seconds each pass took")
    command.add_argument("--verify-each", action="store_true", help="run the module before and after each pass")
    command.add_argument("--explain-skips", action="store_true", help="print each node a pass left alone, and why")
    command.add_argument("--quiet", action="store_true", help="no progress")


def _compile(arguments: argparse.Namespace) -> int:
    from .commands.compile import run_compile

    return run_compile(arguments)


def _add_check(commands: Any) -> None:
    command = _command(commands, "check", _check, "find every mistake in a plan, without reading a weight")
    _add_plan(command)


def _check(arguments: argparse.Namespace) -> int:
    from ..dsl import check_file

    plan, diagnostics, sources = check_file(arguments.plan, arguments.defines)
    wrong = plan is None
    if arguments.json:
        _print_json({"ok": not wrong, "diagnostics": to_json(diagnostics)})
    for diagnostic in diagnostics:
        print(render(diagnostic, sources, color=_colour()), end="\n\n", file=sys.stderr)
    errors = sum(d.severity == "error" for d in diagnostics)
    warnings = len(diagnostics) - errors
    if not arguments.json:
        said = [f"{n} {word}{'s' * (n > 1)}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
        print(f"{arguments.plan}: {', '.join(said) or 'ok'}", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


def _add_run(commands: Any) -> None:
    command = _command(commands, "run", _run, "run a bundle on this machine")
    command.add_argument("bundle", type=Path)
    command.add_argument("--prompt", help="the text to continue")
    command.add_argument("--tokens", type=_positive, default=64, metavar="N", help="new tokens at most (default 64)")
    command.add_argument("--no-speculation", action="store_true", help="the target alone, through the same bucket")
    command.add_argument("--model", help="the model to run, when the bundle has several")
    command.add_argument("--chat", action="store_true", help="apply the model's chat template to the prompt")
    asked = "0 is greedy (default; with `accept = sample` the model's own)"
    command.add_argument("--temperature", type=float, metavar="T", help=asked)
    command.add_argument("--top-p", type=float, metavar="P", help="sample from the likeliest P only (default 1)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampler (default 0)")
    command.add_argument("--inputs", type=Path, metavar="NPZ", help="inputs of a model that is no language model")
    command.add_argument("--outputs", type=Path, metavar="NPZ", help="where to write that model's outputs")
    _add_json(command)


def _run(arguments: argparse.Namespace) -> int:
    from .commands.run import run_run

    return run_run(arguments)


def _add_verify(commands: Any) -> None:
    command = _command(commands, "verify", _verify, "check a bundle: hashes, parts, errors, perplexity")
    command.add_argument("bundle", type=Path)
    command.add_argument("--text", type=Path, metavar="FILE", help="measure perplexity on this text")
    command.add_argument(
        "--windows", type=_positive, default=32, metavar="N", help="windows of 256 tokens (default 32)"
    )
    command.add_argument(
        "--source", action="append", default=[], metavar="MODEL=PATH", help="where a model's source is"
    )
    _add_json(command)


def _verify(arguments: argparse.Namespace) -> int:
    from .commands.run import run_verify

    return run_verify(arguments)


def _add_inspect(commands: Any) -> None:
    command = _command(commands, "inspect", _inspect, "describe a plan, model, bundle or any file of one")
    command.add_argument("file", type=Path, help="a .edge, .onnx, .mnn or .bin file, a model's folder, or a bundle")
    _add_json(command)


def _inspect(arguments: argparse.Namespace) -> int:
    from .commands.inspect import run_inspect

    return run_inspect(arguments)


def _add_passes(commands: Any) -> None:
    command = _command(commands, "passes", _passes, "list the installed passes, or one's parameters")
    command.add_argument("name", nargs="?", help="show this pass's parameters")
    _add_json(command)


def _passes(arguments: argparse.Namespace) -> int:
    from .commands.lists import run_passes

    return run_passes(arguments)


def _add_devices(commands: Any) -> None:
    command = _command(commands, "devices", _devices, "list the devices a plan can name, or one's figures")
    command.add_argument("name", nargs="?", help="show this device's figures and their sources")
    _add_json(command)


def _devices(arguments: argparse.Namespace) -> int:
    from .commands.lists import run_devices

    return run_devices(arguments)


def _add_explain(commands: Any) -> None:
    command = _command(commands, "explain", _explain, "explain an error code")
    command.add_argument("code", nargs="?", help="a code such as E0102; without it, the list of codes")


def _explain(arguments: argparse.Namespace) -> int:
    from .commands.lists import run_explain

    return run_explain(arguments)


def _add_schema(commands: Any) -> None:
    _command(commands, "schema", _schema, "print the JSON Schema of a bundle's manifest")


def _schema(_arguments: argparse.Namespace) -> int:
    print(Path(__file__).with_name("manifest.schema.json").read_text(encoding="utf-8"), end="")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return value


if __name__ == "__main__":
    sys.exit(main())
