"""`edgec estimate`: what a plan's bundle will do on its device and what the compile takes, without reading a weight."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..diagnostics.visible import visible
from ..diagnostics.wording import count
from .streams import print_json

if TYPE_CHECKING:
    from ..driver import Estimate
    from ..estimate.model_estimate import ModelEstimate


def run_estimate(arguments: argparse.Namespace) -> int:
    """Print the estimate; exit 3 when a `require` line about rates or memory would not hold."""
    from ..compile.estimate_plan import as_json, estimated_requirements
    from ..driver import estimate_plan, load_plan

    def say(text: str) -> None:
        if not arguments.json:
            print(visible(text), file=sys.stderr)

    plan = load_plan(arguments.plan, arguments.defines)
    made = estimate_plan(plan, say, arguments.memory)
    rows = estimated_requirements(plan, made)
    if arguments.json:
        print_json({**as_json(made), "requires": rows})
    else:
        for line in _lines(made):
            print(visible(line))
        for row in rows:
            print(visible(f"{'holds' if row['holds'] else 'does not hold'}: {row['line']}   ({row['text']})"))
    return 0 if all(row["holds"] for row in rows) else 3


def _lines(made: Estimate) -> Iterator[str]:
    yield f"{made.plan} on {made.device}: an estimate from shapes and published rates, nothing was run"
    for name, lane in made.speed.lanes.items():
        yield (
            f"  {name}: weights {lane.weights / 1e9:.1f} GB/s, K/V {lane.cache / 1e9:.1f} GB/s, "
            f"{lane.flops / 1e12:.2f} TFLOP/s, from {lane.basis}"
        )
    if not made.speed.lanes:
        yield "  no bandwidth of it is published: bytes and operations only, no rates"
    for model in made.models:
        yield from _model_lines(made, model)
    if (pair := made.pair) is not None:
        how = "assumed, the mean of published pairs" if pair.assumed else "measured"
        tree = f", a tree of {pair.tree}" if pair.tree else ""
        yield f"  {pair.draft} -> {pair.target}: k = {pair.k}{tree}, acceptance {pair.acceptance:.2f} ({how})"
        yield (
            f"    {pair.tokens:.2f} tokens a round; {pair.rate:.1f} tok/s, alone {pair.alone:.1f}: "
            f"{pair.rate / pair.alone:.2f} times; a drafted token costs {pair.cost:.2f} calls of the target"
        )
        if (beside := pair.overlap) is not None:
            yield (
                f"    beside each other: {1e3 * beside.found:.2f} ms a round whose drafts are there, "
                f"{100 * beside.ready:.0f} % of them with time for {count(beside.outcomes, 'outcome')}, "
                f"else {1e3 * beside.missed:.2f} ms"
            )
    cost = made.compile
    yield f"  compile: about {cost.seconds:.0f} s and {cost.memory / 1e9:.1f} GB on two cores: {cost.why}"
    yield f"  prompts: {made.histogram.name}; energy: no figure of power is published"


def _model_lines(made: Estimate, model: ModelEstimate) -> Iterator[str]:
    work = model.work
    yield f"  {model.name} as {model.target}"
    each = "a token at the full context" if work.context else "a call, K/V none"
    read, flops = work.bytes_per_token(), work.flops_per_token()
    yield f"    {read / 1e6:,.1f} MB read and {flops / 1e9:.2f} GFLOP {each}"
    if (active := work.active_bytes_per_token()) < read:
        yield f"    {active / 1e6:,.1f} MB of it in channels that a token keeps: for a runtime that reads no others"
    memory = made.memory[model.name]
    yield (
        f"    memory {memory['peak'] / 1e6:,.1f} MB: weights {memory['weights'] / 1e6:,.1f}, "
        f"K/V {memory.get('kv_held', 0) / 1e6:,.1f}, activations {_arenas(memory) / 1e6:,.1f}"
    )
    for call in model.calls:
        yield f"    {call.tokens:>5} tokens within {call.context}: {1e3 * call.seconds:.2f} ms"
        for part in call.parts:
            yield (
                f"          {part.part} on {part.lane}: {part.read / 1e6:,.1f} MB, {part.flops / 1e9:.2f} GFLOP, "
                f"{1e3 * part.seconds:.2f} ms, waits for {part.bound}"
            )
    if model.decode is not None and model.prompts is not None:
        padding = f", {100 * model.prompts.waste:.0f} % of the slots are padding" if model.static else ""
        yield f"    decode {model.decode:.1f} tok/s, prefill {model.prompts.rate:,.0f} tok/s{padding}"
    if len(model.elsewhere) > 1:
        lanes = model.elsewhere
        said = ", ".join(f"{lane} {decode:.1f} and {prefill:,.0f} tok/s" for lane, (decode, prefill) in lanes.items())
        faster = [max(lanes, key=lambda lane: lanes[lane][at]) for at in (0, 1)]
        text, prompts = faster
        verdict = f"{text} is faster" if text == prompts else f"{text} is faster at text, {prompts} at prompts"
        yield f"    whole on one lane: {said}: {verdict}"


def _arenas(memory: Mapping[str, Any]) -> int:
    """Bytes of every part's largest arena."""
    return sum(max(own.values(), default=0) for own in memory["arenas"].values())
