"""`edgec run` and `edgec verify`: execute and check what would be shipped, on this machine."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from ..diagnostics.diagnostic import fail
from ..diagnostics.wording import count
from .streams import print_exactly, print_json, print_line
from .terminal import meanwhile


def run_run(arguments: argparse.Namespace) -> int:
    """Generate from a bundle (or run a graph model once)."""
    from ..runtime.generate import run_bundle
    from ..runtime.plain_graph import run_graph

    if arguments.inputs is not None or arguments.random:
        result = run_graph(
            arguments.bundle,
            arguments.inputs,
            arguments.outputs,
            model=arguments.model,
            oracle=arguments.oracle,
            device=arguments.device,
            random=arguments.random,
            seed=arguments.seed,
        )
        print_json({**result, **meanwhile()})
        return 0
    if arguments.bundle.suffix in (".edge", ".plan") and arguments.bundle.is_file():
        help = f"compile it first: `edgec compile {arguments.bundle} -o DIR`, then `edgec run DIR`"
        fail("E0901", f"`{arguments.bundle}` is a plan, not a bundle", help=help)
    if arguments.prompt is None:
        fail(
            "E0953",
            "`edgec run` needs a prompt",
            help="add --prompt TEXT (for a graph model --inputs FILE, or --random)",
        )
    stream = None if arguments.json else _stream
    spans: list[dict[str, Any]] = []
    result = run_bundle(
        arguments.bundle,
        arguments.prompt,
        arguments.tokens,
        speculation=not arguments.no_speculation,
        overlap=not arguments.no_overlap,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        chat=arguments.chat,
        model=arguments.model,
        stream=stream,
        oracle=arguments.oracle,
        tell=_tell,
        timed=spans.extend,
        device=arguments.device,
        prefix=arguments.prefix,
    )
    if arguments.timeline is not None:
        _write_timeline(arguments.timeline, result, spans)
    if arguments.json:
        print_json({**result, **meanwhile()})
    else:
        print()
        print(_summary(result), file=sys.stderr)
    return 0


_WHOLE = "leave out `--timeline`, or deploy the model `as qnn` or `as ort`"


def _write_timeline(path: Path, result: dict[str, Any], spans: list[dict[str, Any]]) -> None:
    """The page of `--timeline`; E0963 where there are no lanes to draw or it cannot be written."""
    from ..report.timeline_page import write_timeline

    if not spans:
        fail("E0963", "the model runs as a whole: there are no parts whose times could be drawn", help=_WHOLE)
    try:
        write_timeline(path, f"{len(result['tokens'])} tokens behind {result['prompt_tokens']}", spans, result["lanes"])
    except OSError as error:
        fail("E0963", f"`{path}` cannot be written: {error.strerror}", help="name a file in a folder that is there")


def _stream(text: str) -> None:
    print_exactly(text)


def _tell(expected: str) -> None:
    print(f"[{expected}; `--oracle` runs the same graphs in ONNX Runtime]", file=sys.stderr, flush=True)


def _summary(result: dict[str, Any]) -> str:
    made = len(result["tokens"])
    read = f"{result['prompt_tokens']} prompt tokens"
    if "prefix_tokens" in result:
        read += f", {result['prefix_tokens']} of them from the prefix"
    parts = [read, f"{made} new"]
    if result["drafted"]:
        parts.append(f"{made / result['rounds']:.2f} tokens per round in {result['rounds']} rounds")
        parts.append(f"{result['accepted']} of {result['drafted']} drafted accepted")
    if result.get("looked_up"):
        parts.append(f"{result['found']} of {result['looked_up']} found in the text among them")
    for lane, facts in result["lanes"].items():
        parts.append(f"{lane} {facts['seconds']:.2f} s, {facts['beside']:.0%} of it beside another lane")
    return "[" + ", ".join(parts) + "]"


def run_verify(arguments: argparse.Namespace) -> int:
    """Check a bundle; exit 3 when something does not hold."""
    from ..driver import by_actions, verify_bundle
    from .compile import Progress

    sources = dict(arguments.source)
    with Progress(quiet=arguments.json) as progress:
        options = by_actions(arguments.jobs, arguments.memory, progress=progress.say)
        result = verify_bundle(arguments.bundle, arguments.text, arguments.windows, sources, arguments.device, options)
    if arguments.json:
        print_json({**result, **meanwhile()})
    else:
        _print_verified(result)
    return 0 if result["ok"] else 3


def _print_verified(result: dict[str, Any]) -> None:
    for name, facts in result["parts"].items():
        print_line(f"part {name}: {facts['device']}, {count(facts['graphs'], 'graph')}, {_compared(facts)}")
    for name, value in result["perplexity"].items():
        baseline = result["baseline"].get(name)
        ratio = f" ({value / baseline:.4f} of the float model's {baseline:.4f})" if baseline else ""
        print_line(f"perplexity of {name}: {value:.4f}{ratio}")
    for row in result["requires"]:
        if row["holds"]:  # one that does not is a problem
            print_line(f"holds: {row['line']}   ({row['text']})")
    for problem in result["problems"]:
        print_line(f"problem: {problem}")
    print("ok" if result["ok"] else count(len(result["problems"]), "problem"))


def _compared(facts: dict[str, Any]) -> str:
    if facts["max_error"] is None and facts.get("emission") is not None:
        return f"makes no tensor that the float model has; {_split(facts)}"
    if facts["max_error"] is None:
        return f"not compared: {facts['why']}" if "why" in facts else "not compared"
    share = f" ({facts['relative_error']:.4g} relative)" if facts["relative_error"] else ""
    what = f"its {facts['ran']}, not the shipped file, is " if "ran" in facts else ""
    told = f"{what}off by {facts['max_error']:.4g} at most{share} from the float model, in {facts['worst']}"
    return f"{told}; {_split(facts)}{_read_back(facts.get('read_back'))}"


def _read_back(read: dict[str, int] | None) -> str:
    """How much of the weights was read out of the shipped file and compared with what ran in its place."""
    if read is None:
        return ""
    share = read["bytes"] / max(1, read["of"])
    told = f"{math.floor(1000 * share) / 10:g} % of its weights' bytes"
    return f"; {told} read from the shipped file, the same as the twin's"


def _split(facts: dict[str, Any]) -> str:
    """What of a part's error is the engine's, and what quantisation's."""
    if facts.get("emission") is None:
        return f"emission and quantisation not told apart: {facts.get('unsplit') or 'nothing was compared'}"
    bound = f"emission {facts['emission']:.2g} (at most {facts['emission_bound']:g})"
    return bound + (f", quantisation {facts['quantization']:.2g}" if facts["quantization"] is not None else "")
