"""Settle every `auto` of a plan that shapes and the device decide: `k` of speculation, then buckets.

    k = the one with the largest gain at the acceptance and the cost of a drafted token (`estimate/speculation.py`);
        among those that the plan's buckets can verify, where it lists them; of a tree at most as many as it has tokens,
        of drafts that are made beside the target the one with the most tokens a second of both

The acceptance is what a compile of the same pair has measured (`acceptance.py`), else the mean of published pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import fail
from ..estimate.choose_buckets import TABLES
from ..estimate.fit import npu_fit
from ..estimate.lane_speed import ChipSpeed, chip_speed
from ..estimate.prefill import call_cost
from ..estimate.speculation import MOST, PREPARED, drafts, gain, overlap, usual_acceptance
from ..pipeline.pass_interface import Circumstances
from .acceptance import known_acceptance
from .planned_work import planned_work

if TYPE_CHECKING:
    from ..estimate.work import ModelWork
    from ..ir.decoder_arch import DecoderArch
    from ..pipeline.step import Step
    from ..plan.plan import Deploy, Plan, Speculate


def undecided(plan: Plan) -> bool:
    """Whether a line of the plan is left to be settled."""
    lines = (step for deploy in plan.deploys for step in _lines(plan, deploy))
    return any(line.auto for line in plan.speculates) or any(step.pass_.undecided for step in lines)


def decide(plan: Plan) -> Plan:
    """The plan with nothing left open; PlanError where something cannot be settled. Decided anew if it was before."""
    speed = chip_speed(plan.devices[0])
    lines = tuple(replace(one, k=_best_k(plan, one, speed)) if one.auto else one for one in plan.speculates)
    plan = replace(plan, speculates=lines)
    return replace(plan, deploys=tuple(_decided(plan, deploy, speed) for deploy in plan.deploys))


def shape_of(arch: DecoderArch) -> tuple[int, ...]:
    """As the published tables write it."""
    kv = arch.kv_heads * arch.head_dim
    return arch.layers, arch.hidden, arch.heads * arch.head_dim, kv, arch.intermediate, arch.vocab


def _lines(plan: Plan, deploy: Deploy) -> Sequence[Step]:
    """The pipeline as the plan wrote it."""
    return plan.pipelines[deploy.pipeline].steps if deploy.pipeline else ()


def _decided(plan: Plan, deploy: Deploy, speed: ChipSpeed) -> Deploy:
    steps, decl = _lines(plan, deploy), plan.models[deploy.model]
    if decl.arch is None or not any(step.pass_.undecided for step in steps):
        return deploy
    work = planned_work(deploy.model, decl.arch, deploy, steps, decl.context)
    seconds = call_cost(speed, work, npu_fit().residual(shape_of(decl.arch)))
    edges = sum(outputs + inputs for outputs, inputs in decl.arch.linears().values())
    tables = TABLES * edges / sum(part.weights for part in work.parts)
    line = next((line for line in plan.speculates if line.target == deploy.model), None)
    verify, roomy = (None, False) if line is None else (line.tokens, line.tree > 0)
    made = []
    for step in steps:
        at = step.place("histogram") if "histogram" in step.settings else step.span
        folder = Path(step.span.file).parent
        by = Circumstances(decl.context, folder, at, verify, seconds, work.bytes_read, tables, roomy)
        made.append(replace(step, pass_=step.pass_.decided(by)) if step.pass_.undecided else step)
    return replace(deploy, decided=tuple(made))


def _best_k(plan: Plan, line: Speculate, speed: ChipSpeed) -> int:
    acceptance = known_acceptance(plan, line)
    cost = _cost_of_a_draft(plan, line, speed)
    possible = _verifiable(plan, line)
    if not possible:
        message = f"`k = auto` finds no bucket of 2 to {MOST + 1} tokens for the rounds of speculation"
        fail("E0210", message, line.span, help="write `tokens = auto`, or add one: `tokens = [1, 4, …]`")
    chance = usual_acceptance() if acceptance is None else acceptance
    return max(possible, key=lambda k: (_gain(line, chance, k, cost), -k))


def _gain(line: Speculate, chance: float, k: int, cost: float) -> float:
    """Tokens a call of the target's time, of the form of drafts that the line asks for."""
    if not line.tree and not line.overlap:
        return gain(chance, k, cost)
    shape = drafts(chance, k, line.tree)
    return shape.tokens / (overlap(shape, k, 1.0, cost, None, PREPARED).round if line.overlap else 1 + k * cost)


def _verifiable(plan: Plan, line: Speculate) -> list[int]:
    """Each k whose round fits a bucket of k + 1 tokens; all of them where buckets are not listed."""
    every = list(range(1, min(MOST, line.tree or MOST) + 1))
    if line.tree:
        return every
    for deploy in plan.deploys:
        for step in _lines(plan, deploy) if deploy.model == line.target else ():
            listed = {tokens for tokens, _ in step.demands.buckets}
            if listed:
                return [k for k in every if k + 1 in listed]
    return every


def _cost_of_a_draft(plan: Plan, line: Speculate, speed: ChipSpeed) -> float:
    """Of one token, in calls of the target; without published figures of the device the ratio of the bytes read."""
    draft, target = (_work(plan, name) for name in (line.draft, line.target))
    if draft is None or target is None:
        return 1.0
    if not (speed.serves(draft) and speed.serves(target)):
        return draft.bytes_per_token() / target.bytes_per_token()
    return _token(plan, draft, speed) / _token(plan, target, speed)


def _token(plan: Plan, work: ModelWork, speed: ChipSpeed) -> float:
    arch = plan.models[work.name].arch
    residual = 1.0 if arch is None else npu_fit().residual(shape_of(arch))
    return speed.call_seconds(work, 1, work.context, residual)


def _work(plan: Plan, name: str) -> ModelWork | None:
    deploy = next((one for one in plan.deploys if one.model == name), None)
    decl = plan.models[name]
    if deploy is None or decl.arch is None:
        return None
    return planned_work(name, decl.arch, deploy, _lines(plan, deploy), decl.context)
