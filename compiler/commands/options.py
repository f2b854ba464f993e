"""The options of each command of `edgec`, and the types of what they take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


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


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a positive integer")
    return int(text)


def _duration(text: str) -> float:
    from .sizes import read_duration

    try:
        return read_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _size(text: str) -> int:
    from .sizes import read_size

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


OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "check": _check,
    "compile": _compile,
    "action": _action,
    "prove": _prove,
    "estimate": _estimate,
    "profile": _profile,
    "run": _run,
    "verify": _verify,
    "push": _push,
    "unpack": _unpack,
    "inspect": _inspect,
    "passes": _passes,
    "devices": _devices,
    "explain": _explain,
    "help": _help,
    "completion": _completion,
    "cache": _cache,
    "init": _init,
    "sweep": _sweep,
    "tune": _tune,
}
