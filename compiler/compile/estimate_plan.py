"""`edgec estimate`: what a plan's bundle will do on its device, and what its compile takes. No weight is read.

plan -> work of each model -> roofline on the device's lanes -> rates, speculation, the lines of `require`
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import Diagnostic, Label, RequirementError, fail
from ..estimate.compile_cost import CompileCost, emit_cost
from ..estimate.fit import npu_fit
from ..estimate.histogram import DEFAULT, Histogram
from ..estimate.lane_speed import ChipSpeed, chip_speed
from ..estimate.model_estimate import ModelEstimate, estimate_model, round_seconds
from ..estimate.speculation import PREPARED, Overlap, drafts, overlap, usual_acceptance
from ..estimate.work import CACHE_BYTES
from ..ir.annotations import SHADOW
from ..ir.module import MAIN
from ..memory.memory_plan import memory_entry
from ..plan.measure import Finished, subject_of
from ..registry import find_target, measures
from .acceptance import known_acceptance
from .cut_module import planned_memory
from .decide import shape_of
from .dry_run import dry_parts
from .model_work import buckets_of, model_work

if TYPE_CHECKING:
    from ..emit.part import Part
    from ..estimate.work import ModelWork
    from ..ir.module import Module
    from ..plan.plan import Deploy, Plan
    from .compile_model import CompiledModel

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PairEstimate:
    """Decoding with the draft. `assumed`: the acceptance was not measured, it is the published pairs' mean.

    `overlap`: its rounds where the draft works beside the target, else None.
    """

    draft: str
    target: str
    k: int
    acceptance: float
    assumed: bool
    cost: float  # of a drafted token, in calls of the target
    tokens: float  # a round
    rate: float  # tokens a second
    alone: float  # of the target alone, through the same bucket
    tree: int = 0  # tokens of a round's tree, 0: a chain
    verify: float = 0.0  # seconds of the target's call
    overlap: Overlap | None = None


@dataclass(frozen=True)
class Estimate:
    """Everything that is said of a plan."""

    plan: str
    device: str
    speed: ChipSpeed
    histogram: Histogram
    models: tuple[ModelEstimate, ...]
    pair: PairEstimate | None
    compile: CompileCost
    heaviest: Deploy  # the line whose compile takes most memory
    memory: dict[str, dict[str, Any]]  # model -> its entry, as in a manifest

    @property
    def main(self) -> ModelEstimate | None:
        """The model whose text a user waits for: the target of the speculation, else the only decoder or the first."""
        decoders = [model for model in self.models if model.work.context]
        named = [model for model in decoders if self.pair is not None and model.name == self.pair.target]
        return next(iter([*named, *decoders]), None)

    @property
    def decode(self) -> float | None:
        """Tokens a second as the bundle decodes: with its draft if it has one."""
        if self.pair is not None:
            return self.pair.rate
        return None if self.main is None else self.main.decode

    @property
    def prefill(self) -> float | None:
        """Tokens of prompt a second, the draft's reading of it included."""
        if self.main is None or self.main.prompts is None:
            return None
        readers = [self.main, *(one for one in self.models if self.pair is not None and one.name == self.pair.draft)]
        seconds = [one.prompts.seconds for one in readers if one.prompts is not None]
        return self.main.prompts.tokens / sum(seconds) if len(seconds) == len(readers) else None


def estimate_plan(plan: Plan, progress: Progress = lambda _text: None) -> Estimate:
    """The estimate of a checked plan; PlanError where a step of it cannot run."""
    made = []
    for deploy in plan.deploys:
        progress(f"looking at `{deploy.model}`")
        module, parts = dry_parts(plan, deploy)
        made.append((deploy, module, parts))
    return _estimate(plan, made)


def estimate_compiled(plan: Plan, models: Sequence[CompiledModel]) -> Estimate:
    """The same of models that were compiled, whose parts are the ones that ship."""
    return _estimate(plan, [(model.deploy, model.final, model.cut.parts) for model in models])


def _estimate(plan: Plan, made: Sequence[tuple[Deploy, Module, list[Part]]]) -> Estimate:
    speed, models, costs, memory = chip_speed(plan.devices[0]), [], [], {}
    for deploy, module, parts in made:
        work, buckets = model_work(module, parts, deploy), buckets_of(module)
        models.append(_model(plan, deploy, work, buckets, speed))
        weights, graphs = sum(part.macs for part in work.parts), max(1, len(buckets))
        largest = emit_cost(deploy.target, _of_the_largest_file(parts, work), graphs)
        costs.append((replace(largest, seconds=emit_cost(deploy.target, weights, graphs).seconds), deploy))
        memory[deploy.model] = _memory(plan, deploy, module, parts, work)
    (worst, heaviest) = max(costs, key=lambda one: one[0].memory)
    cost = CompileCost(sum(one.seconds for one, _ in costs), worst.memory, worst.why)
    pair = _pair(plan, {model.name: model for model in models}, speed)
    device = plan.devices[0].name
    return Estimate(plan.name, device, speed, DEFAULT, tuple(models), pair, cost, heaviest, memory)


def _of_the_largest_file(parts: Sequence[Part], work: ModelWork) -> float:
    """Weights that one process emits: shards are files of their own, but for those that shadows make."""
    shadows = any(SHADOW.get(node) is not None for part in parts for one in part.graphs.values() for node in one.graph)
    files: dict[int, float] = {}
    for part, made in zip(parts, work.parts, strict=True):
        shard = 0 if shadows else part.shard
        files[shard] = files.get(shard, 0.0) + made.macs
    return max(files.values(), default=0.0)


def _memory(plan: Plan, deploy: Deploy, module: Module, parts: list[Part], work: ModelWork) -> dict[str, Any]:
    """As the manifest will have it; the weights as the estimate counts them, tables of embeddings included."""
    shapes = [(f"t{t}_c{c}", t, c) for t, c in buckets_of(module)] or [(MAIN, None, None)]
    width = CACHE_BYTES.get(deploy.kv, find_target(deploy.target)().cache_width(plan.devices[0]))
    context = plan.models[deploy.model].context
    planned = planned_memory(deploy, parts)
    return memory_entry(planned, round(work.stored), module.arch, context, shapes, width)


def _model(
    plan: Plan, deploy: Deploy, work: ModelWork, buckets: list[tuple[int, int]], speed: ChipSpeed
) -> ModelEstimate:
    arch = plan.models[deploy.model].arch
    residual = 1.0 if arch is None else npu_fit().residual(shape_of(arch))
    return estimate_model(work, deploy.target, buckets, speed, DEFAULT, residual)


def _pair(plan: Plan, models: dict[str, ModelEstimate], speed: ChipSpeed) -> PairEstimate | None:
    if not plan.speculates:
        return None
    line = plan.speculates[0]
    target, draft = models[line.target], models[line.draft]
    if target.decode is None or draft.decode is None:
        return None
    measured = known_acceptance(plan, line)
    acceptance = usual_acceptance() if measured is None else measured
    verify, token = round_seconds(target, line.tokens, speed), 1 / draft.decode
    shape = drafts(acceptance, line.k, line.tree)
    seconds, beside = verify + line.k * token, None
    if line.overlap:
        batched = find_target(draft.target).engine == "chain"
        beside = overlap(
            shape,
            line.k,
            verify,
            token,
            functools.partial(round_seconds, draft, speed=speed) if batched else None,
            PREPARED,
        )
        seconds = beside.round
    return PairEstimate(
        line.draft, line.target, line.k, acceptance, measured is None, token / verify, shape.tokens,
        shape.tokens / seconds, alone=1 / verify, tree=line.tree, verify=verify, overlap=beside,
    )  # fmt: skip


def as_json(estimate: Estimate) -> dict[str, Any]:
    """Plain values: bytes, operations, seconds, tokens a second; None for what no published figure tells."""
    pair = estimate.pair
    return {
        "plan": estimate.plan,
        "device": estimate.device,
        "lanes": {name: vars(lane) for name, lane in estimate.speed.lanes.items()},
        "histogram": estimate.histogram.name,
        "models": {model.name: _model_json(model) for model in estimate.models},
        "speculation": None if pair is None else _pair_json(pair),
        "decode_rate": estimate.decode,
        "prefill_rate": estimate.prefill,
        "energy": None,  # the device table has no figure of power
        "memory": estimate.memory,
        "compile": vars(estimate.compile),
    }


def _pair_json(pair: PairEstimate) -> dict[str, Any]:
    beside = pair.overlap
    return vars(pair) | {"overlap": None if beside is None else vars(beside) | {"round": beside.round}}


def _model_json(model: ModelEstimate) -> dict[str, Any]:
    lanes = {lane: {"decode_rate": d, "prefill_rate": p} for lane, (d, p) in model.elsewhere.items()}
    calls = [
        {"tokens": call.tokens, "context": call.context, "seconds": call.seconds, "parts": list(map(vars, call.parts))}
        for call in model.calls
    ]
    prompts = model.prompts
    return {
        "target": model.target,
        "bytes_per_token": model.work.bytes_per_token(),
        "active_bytes_per_token": model.work.active_bytes_per_token(),
        "flops_per_token": model.work.flops_per_token(),
        "decode_rate": model.decode,
        "prefill_rate": model.prefill,
        "padding": None if prompts is None else prompts.waste,
        "shape_factor": model.residual,
        "lanes": lanes,
        "calls": calls,
    }


def estimated_requirements(plan: Plan, estimate: Estimate) -> list[dict[str, Any]]:
    """The lines of `require` that an estimate answers, with what it says of each."""
    manifest = {
        "estimate": {"decode_rate": estimate.decode, "prefill_rate": estimate.prefill},
        "memory": estimate.memory,
    }
    finished = Finished(plan.path.parent, manifest, 0, {}, {})
    rows = []
    for line in plan.requires:
        name, _ = subject_of(line.subject, measures())
        measure = measures()[name]()
        if measure.of == "device":
            value, _ = measure.value(finished, None)
            row = {"line": line.text, "estimated": value, "holds": line.holds(value)}
            rows.append(row | {"text": measure.describe(value, 1.0)})
    return rows


def refuse_by_estimate(plan: Plan, memory: int | None, progress: Progress = lambda _text: None) -> Estimate | None:
    """Refuse a compile that would be in vain: E0962 above `memory` bytes, E0950 where a line about the device fails.

    A plan that asks for neither is not estimated.
    """
    asked = any(measures()[subject_of(line.subject, measures())[0]].of == "device" for line in plan.requires)
    if memory is None and not asked:
        return None
    estimate = estimate_plan(plan, progress)
    within_memory(plan, estimate, memory)
    lines = {line.text: line for line in plan.requires}
    broken = [
        Diagnostic("E0950", f"`{row['line']}` does not hold: {row['text']}", Label(lines[row["line"]].span))
        for row in estimated_requirements(plan, estimate)
        if not row["holds"]
    ]
    if broken:
        raise RequirementError(*broken)
    return estimate


def within_memory(plan: Plan, estimate: Estimate, memory: int | None) -> None:
    """E0962 at the deploy line that takes most if the compile is estimated to take more than `memory` bytes."""
    need = estimate.compile.memory
    if memory is None or need <= memory:
        return
    line = estimate.heaviest
    message = f"compiling `{line.model}` is estimated to take {need / 1e9:.1f} GB, more than the {memory / 1e9:.1f} GB"
    others = "" if line.target == "mnn" else f", or deploy `{line.model}` on cpu as mnn, which is written by rows"
    help = f"give `--memory` {math.ceil(need / 1e9)}GB on a machine that has it{others}"
    fail("E0962", f"{message} that `--memory` allows", line.span, help=help)
