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
    options: Callable[[argparse.ArgumentParser], None]
    json: bool = True
    tidies: bool = False  # what killed commands left is removed first


def _parser() -> Parser:
    parser = Parser(prog="edgec", description="Compile a deployment plan for an on-device LLM.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, row in _COMMANDS.items():
        command = commands.add_parser(name, help=row.help, description=row.help)
        row.options(command)
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


def _plan(command: argparse.ArgumentParser) -> None:
    command.add_argument("plan", type=Path, help="the plan, a .edge or .plan file")
    _defines(command)


def _defines(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-D",
        dest="defines",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="give the `let` NAME of the plan another value; may be repeated",
    )


def _check(command: argparse.ArgumentParser) -> None:
    command.add_argument("plans", type=Path, nargs="+", metavar="PLAN", help="plans to check; `-` reads one from stdin")
    _defines(command)
    command.add_argument(
        "--fast", action="store_true", help="leave out the dry run: what the targets take of the graphs"
    )
    _no_prove(command)


def _compile(command: argparse.ArgumentParser) -> None:
    _plan(command)
    add = command.add_argument
    add("-o", "--output", type=Path, metavar="DIR", help="directory of the bundle (default build/<plan name>)")
    _farm(command)
    printed = "print the graph as text after the pass PASS (`all`: after each pass)"
    add("--print-after", action="append", default=[], metavar="PASS", help=printed)
    add("--time-passes", action="store_true", help="print the seconds each pass took")
    compared = "run the model before and after each pass; fail if outputs differ by more than the pass allows"
    add("--verify-each", action="store_true", help=compared)
    add("--explain-skips", action="store_true", help="print each node that a pass did not change, and why")
    _no_prove(command)
    _memory(command)
    add("--quiet", action="store_true", help="print no progress")


def _farm(command: argparse.ArgumentParser) -> None:
    """Where the actions of a compile run, and how many at a time."""
    add = command.add_argument
    _where(command, "actions that run at the same time (default 1)")
    add("--keep-going", action="store_true", help="after a failure, run every action that does not need what failed")
    add("--explain-actions", action="store_true", help="print the actions, what has run and why the others would; stop")
    written = "write the actions for a workflow engine instead of running them: `--emit snakemake DIR`"
    add("--emit", nargs=2, metavar=("ENGINE", "DIR"), help=written)


def _where(command: argparse.ArgumentParser, jobs: str) -> None:
    add = command.add_argument
    add("--jobs", type=_positive, default=1, metavar="N", help=jobs)
    elsewhere = "run the actions on a Dask scheduler, such as dask://host:8786 (`pip install 'edgec[farm]'`)"
    add("--on", metavar="URL", help=elsewhere)
    shared = "where workers that do not share this cache find results: a folder, or what fsspec opens (s3://…)"
    add("--store", metavar="URL", help=shared)


def _action(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("action", choices=("run",), help="run: do the action")
    add("file", type=Path, help="its description, as `edgec compile PLAN --emit snakemake DIR` writes it")
    add("--store", metavar="URL", help="read what it needs from here and leave its result here")
    add("--result", type=Path, metavar="FILE", help="write what it left and took to FILE")
    add("--quiet", action="store_true", help="print no progress")


def _no_prove(command: argparse.ArgumentParser) -> None:
    refused = "refuse what no conformance table holds, instead of running it on the engine first"
    command.add_argument("--no-prove", action="store_true", help=refused)


def _prove(command: argparse.ArgumentParser) -> None:
    _plan(command)
    command.add_argument("--quiet", action="store_true", help="print no progress")


def _estimate(command: argparse.ArgumentParser) -> None:
    _plan(command)
    _memory(command)


def _memory(command: argparse.ArgumentParser) -> None:
    most = "refuse the plan before the start if its compile is estimated to take more memory, such as 16GB"
    command.add_argument("--memory", type=_size, metavar="SIZE", help=most)


def _profile(command: argparse.ArgumentParser) -> None:
    _plan(command)
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the profile to FILE, for `profile =`")
    command.add_argument("--quiet", action="store_true", help="print no progress")


def _run(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("bundle", type=Path, help="the directory that `edgec compile` wrote")
    add("--prompt", type=_text, metavar="TEXT", help="the text to continue")
    add("--tokens", type=_positive, default=64, metavar="N", help="generate at most N tokens (default 64)")
    alone = "run the target model without the draft, through the same bucket"
    add("--no-speculation", action="store_true", help=alone)
    add("--no-overlap", action="store_true", help="let the draft wait for the target, where the plan lets them overlap")
    add("--model", metavar="NAME", help="the model to run, if the bundle has several")
    add("--chat", action="store_true", help="apply the model's chat template to the prompt")
    default = "0: always the most likely token (default; with `accept = sample` the model's own temperature)"
    add("--temperature", type=float, metavar="T", help=default)
    nucleus = "sample from the most likely tokens of total probability P (default 1: from all)"
    add("--top-p", type=float, metavar="P", help=nucleus)
    add("--seed", type=_seed, default=0, metavar="N", help="random seed of the sampler (default 0)")
    oracle = "run NPU parts in ONNX Runtime instead of the emulator, which takes a hundred times as long"
    add("--oracle", action="store_true", help=oracle)
    begun = "begin with the K/V cache in FILE as far as the prompt is its text; without such a file, save the prompt's"
    add("--prefix", type=Path, metavar="FILE", help=begun)
    add("--timeline", type=Path, metavar="FILE", help="write an HTML page of when the parts of each lane ran")
    arrays = "inputs of a model that is no language model: an .npz, or an image or a .wav where one input takes it"
    add("--inputs", type=Path, metavar="FILE", help=arrays)
    add("--random", action="store_true", help="random inputs for those that --inputs does not give, by --seed")
    add("--outputs", type=Path, metavar="NPZ", help="file to write that model's outputs to")
    _device(command)


def _device(command: argparse.ArgumentParser) -> None:
    chip = "of a bundle for several chips, the one whose files are meant, such as sm8650 (default: the first)"
    command.add_argument("--device", metavar="NAME", help=chip)


def _verify(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("bundle", type=Path, help="the directory that `edgec compile` wrote")
    add("--text", type=Path, metavar="FILE", help="measure perplexity on this text")
    count = "measure it on the first N windows of 256 tokens (default 32)"
    add("--windows", type=_positive, default=32, metavar="N", help=count)
    moved = "folder or file of the float model MODEL, if it is not where the manifest says; may be repeated"
    add("--source", type=_assignment, action="append", default=[], metavar="MODEL=PATH", help=moved)
    add(
        "--jobs", type=_positive, default=1, metavar="N", help="parts that are looked into at the same time (default 1)"
    )
    add("--memory", type=_size, metavar="SIZE", help="look into as many as fit into SIZE, each in a process of its own")
    _device(command)


def _push(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("bundle", type=Path, help="the directory that `edgec compile` wrote")
    add("--serial", metavar="S", help="the phone, if several are connected (`adb devices` lists them)")
    add("--to", metavar="FOLDER", help="folder on the phone (default /data/local/tmp/edgec/<plan name>)")
    found = "copy the engines' libraries from this folder and those below it to FOLDER/lib"
    add("--libraries", type=Path, metavar="DIR", help=found)
    add("--device", metavar="NAME", help="the phone's chip, where the phone does not say it")


def _unpack(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("bundle", type=Path, help="the directory that `edgec compile` wrote")
    add("-o", "--output", type=Path, metavar="DIR", help="directory of the dense bundle (default: its own place)")


def _inspect(command: argparse.ArgumentParser) -> None:
    kinds = "a .edge, .plan, .onnx, .mnn or .bin file, a model's folder, or a bundle"
    command.add_argument("file", type=Path, help=kinds)
    _device(command)


def _passes(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", help="print the parameters of this pass; without it, the list of passes")


def _devices(command: argparse.ArgumentParser) -> None:
    figures = "print the figures of this device and their sources; without it, the list of devices"
    command.add_argument("name", nargs="?", help=figures)


def _explain(command: argparse.ArgumentParser) -> None:
    command.add_argument("code", nargs="?", help="an error code such as E0102; without it, the list of codes")


def _help(command: argparse.ArgumentParser) -> None:
    command.add_argument("command", nargs="?", help="the command to explain; without it, all commands")


def _completion(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell the script is for")


def _cache(command: argparse.ArgumentParser) -> None:
    what = "list what it holds (default), check every file against its digest, or prune what is not used"
    command.add_argument("action", nargs="?", choices=("list", "check", "prune"), default="list", help=what)
    older = "prune: remove what was not used for so long, such as 30d (m, h, d, w)"
    command.add_argument("--older", metavar="AGE", help=older)
    size = "prune: remove the longest unused until no more is left, such as 5GiB"
    command.add_argument("--max-size", metavar="SIZE", help=size)


def _init(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("model", metavar="MODEL", help="a Hugging Face folder, a .gguf or an .onnx file")
    add("--device", default="host", metavar="NAME", help="the chip, as `edgec devices` lists them (default host)")
    most = "memory that the models may take on the device, such as 3GB: the plan has to fit"
    add("--memory", type=_size, metavar="SIZE", help=most)
    add("--draft", metavar="MODEL", help="a smaller model with the same tokenizer, which proposes tokens")
    add(
        "--context", type=_positive, metavar="N", help="positions of the K/V cache (default 2048, fewer where they fit)"
    )
    text = "a text that weights are solved on; of several the last is kept back to measure perplexity on"
    add("--text", action="append", default=[], metavar="FILE", help=text)
    add("--evaluation", action="append", default=[], metavar="FILE", help="a text to measure perplexity on")
    add("-o", "--output", type=Path, metavar="FILE", help="the plan to write (default plan.edge)")
    add("--force", action="store_true", help="write over a file that is there")


def _sweep(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("plan", type=Path, help="the plan, a .edge or .plan file")
    lists = "values of the `let` NAME to sweep over; with one value it is the same at every point; may be repeated"
    add("-D", dest="defines", action="append", default=[], metavar="NAME=[A,B]", help=lists)
    add("-o", "--output", type=Path, metavar="DIR", help="keep the bundles, in folders below DIR")
    add("--html", type=Path, metavar="FILE", help="write the table and the Pareto front as a page")
    add("--force", action="store_true", help="write over the page that is there")
    add("--keep-going", action="store_true", help="make the other points where one fails")
    parts = (
        "make all points as one graph of actions, N at a time, each in a process of its own (default 1: one process)"
    )
    _where(command, parts)
    add("--memory", type=_size, metavar="SIZE", help="run as many actions at a time as fit, such as 16GB")
    add("--most", type=_positive, default=256, metavar="N", help="refuse more points than N (default 256)")
    add("--quiet", action="store_true", help="print no progress")


def _tune(command: argparse.ArgumentParser) -> None:
    _plan(command)
    add = command.add_argument
    add("-o", "--output", type=Path, metavar="FILE", help="the plan to write (default PLAN with .tuned before .edge)")
    add("--force", action="store_true", help="write over a file that is there")
    add("--goal", metavar="MEASURE", help="what is to be best, such as decode.rate, in the place of the plan's goal")
    budget = "time budget, such as 10min (s, min, h); what begins before it ends is finished (default 10min)"
    add("--time", type=_duration, default=600.0, metavar="TIME", help=budget)
    runs = "compile at most N points (default a quarter of them, 3 to 24)"
    add("--runs", type=_positive, metavar="N", help=runs)
    add("--trials", type=_positive, default=400, metavar="N", help="look at no more than N proposals (default 400)")
    _where(command, "of a point that is compiled, run N actions at a time (default 1: one process)")
    add("--memory", type=_size, metavar="SIZE", help="run as many of them at a time as fit, such as 16GB")
    add("--quiet", action="store_true", help="print no progress")


def _nothing(_command: argparse.ArgumentParser) -> None:
    pass


def _run_schema(_arguments: argparse.Namespace) -> int:
    print((Path(__file__).parent / "bundle" / "manifest.schema.json").read_text(encoding="utf-8"), end="")
    return 0


_COMMANDS: dict[str, _Command] = {
    "init": _Command(
        "write a first plan for a model and a device, with the reason for each line", "init:run_init", _init
    ),
    "compile": _Command("compile a plan into a bundle", "compile:run_compile", _compile, tidies=True),
    "action": _Command("do one action of a compile, on any machine", "actions:run_action", _action, tidies=True),
    "check": _Command("find every mistake in a plan, without reading a weight", "check:run_check", _check, tidies=True),
    "estimate": _Command(
        "estimate rates on the device, and time and memory of the compile", "estimate:run_estimate", _estimate
    ),
    "sweep": _Command(
        "compile a plan with every combination of values, and show which are best",
        "sweep:run_sweep",
        _sweep,
        tidies=True,
    ),
    "tune": _Command(
        "choose the values of a plan's `tune(…)`: every requirement met, one goal best",
        "tune:run_tune",
        _tune,
        tidies=True,
    ),
    "prove": _Command("run what no conformance table holds of a plan, and keep the rows", "prove:run_prove", _prove),
    "profile": _Command(
        "measure what passes such as `shadow` profile of the plan's models", "profile:run_profile", _profile
    ),
    "run": _Command("run a bundle on this machine", "run:run_run", _run, tidies=True),
    "verify": _Command(
        "check a bundle: hashes, binaries, errors against the float model, perplexity",
        "run:run_verify",
        _verify,
        tidies=True,
    ),
    "push": _Command("copy a bundle onto a phone, through adb", "push:run_push", _push, tidies=True),
    "unpack": _Command(
        "restore the packed weight files of a bundle, as engines read them", "unpack:run_unpack", _unpack, tidies=True
    ),
    "inspect": _Command("describe a plan, a model, a bundle or a file of one", "inspect:run_inspect", _inspect),
    "cache": _Command(
        "list what the cache holds, check it, or remove what is not used", "cache:run_cache", _cache, tidies=True
    ),
    "passes": _Command("list the installed passes, or the parameters of one", "lists:run_passes", _passes),
    "devices": _Command("list the devices a plan can name, or the figures of one", "lists:run_devices", _devices),
    "explain": _Command("explain an error code", "lists:run_explain", _explain, json=False),
    "help": _Command("explain edgec, or one of its commands", "completion:run_help", _help, json=False),
    "completion": _Command(
        'complete words in a shell: eval "$(edgec completion bash)"',
        "completion:run_completion",
        _completion,
        json=False,
    ),
    "schema": _Command("print the JSON Schema of a bundle's manifest", _run_schema, _nothing, json=False),
}


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a positive integer")
    return int(text)


def _duration(text: str) -> float:
    from .commands.sizes import read_duration

    try:
        return read_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _size(text: str) -> int:
    from .commands.sizes import read_size

    try:
        return read_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number from 0 to 2^63 - 1")
    return int(text)


def _text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not text in UTF-8") from None
    return text


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"`{text}` is not of the form NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
