"""The actions of a plan: what each of its deploy lines needs before the bundle can be put together.

    prove ─▶ profile ─▶ solve ─▶ lower ─▶ compile (part × chip) …     of a target whose compiles can be done apart
                              └▶ emit                                 of one that writes a model in one go

`prove` is there where no conformance table holds what the plan needs, `profile` where a pass measures one, `solve`
where one reads calibration text. Which compiles a lowered model needs is told by its graphs with dry weights, and kept
as a note: a plan that was seen before is planned without them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..compile.cut_module import parts_by_target
from ..compile.dry_run import dry_parts
from ..compile.model_work import model_work
from ..diagnostics.diagnostic import EdgecError
from ..emit.target import Target
from ..estimate.compile_cost import BASE, emit_cost
from ..files import cache
from ..pipeline.measured_steps import split_steps
from ..registry import find_target
from . import records
from .action import Action, Graph
from .facts import code_fact, deploy_facts, devices_fact, digest, solve_facts, tools_fact

if TYPE_CHECKING:
    from ..plan.plan import Deploy, Plan

_SHAPE = "action-units"
_PROCESS = 0.35e9  # bytes of a process of edgec with arrays and graphs of a small model
_TORCH = 0.5e9  # more, where a solver computes with torch
_SOLVE_SECONDS, _LOWER_SECONDS = 2e-7, 2e-8  # a weight


def add_plan(graph: Graph, plan: Plan, prove: bool = False) -> dict[str, str]:
    """Put the actions of a plan into the graph; the key of what each model's files come from, by name.

    `prove`: something is to be run that no table holds.
    """
    first = (graph.add(_prove(plan)),) if prove else ()
    return {deploy.model: _add_deploy(graph, plan, number, deploy, first) for number, deploy in enumerate(plan.deploys)}


def request(plan: Plan, deploy: int | None = None, unit: int | None = None) -> dict[str, Any]:
    """What a worker needs to have the plan again: its text, where its paths are relative to, the values of `-D`."""
    path = str(plan.path)
    defines = [name.removeprefix("-D ") for name in plan.sources if name.startswith("-D ")]
    asked: dict[str, Any] = {"plan": os.path.abspath(path), "text": plan.sources.get(path), "defines": defines}
    if deploy is not None:
        asked |= {"deploy": deploy, "target": plan.deploys[deploy].target}
    if unit is not None:
        asked["unit"] = unit
    return asked


def emission_key(plan: Plan, deploy: Deploy) -> str:
    """The key that the files of a deploy line are kept under."""
    return Action("emit", deploy.model, deploy_facts(plan, deploy)).key


def lowered_units(plan: Plan, deploy: Deploy) -> list[dict[str, Any]]:
    """What the lowering of a deploy line said of the compiles behind it; nothing where it has not run."""
    found = records.noted(Action("lower", deploy.model, deploy_facts(plan, deploy)).key)
    return found.facts.get("units", []) if found is not None else []


def unit_of(lowered: str, number: int) -> dict[str, str]:
    """What a compile behind a lowering hangs on."""
    return {"lowered": lowered, "unit": str(number)}


def _add_deploy(graph: Graph, plan: Plan, number: int, deploy: Deploy, first: tuple[str, ...]) -> str:
    weights = _weights(plan, deploy)
    asked = request(plan, number)
    before = first
    steps, _ = split_steps(plan.steps(deploy))
    if any(step.pass_.profiles for step in plan.steps(deploy)):
        before = (graph.add(_step("profile", plan, deploy, before, asked, weights)),)
    if any(step.demands.calibration for step in steps):
        before = (graph.add(_step("solve", plan, deploy, before, asked, weights)),)
    facts = deploy_facts(plan, deploy)
    if not _may_have_units(deploy):
        memory = emit_cost(deploy.target, weights, 1).memory + _PROCESS
        return graph.add(Action("emit", deploy.model, facts, before, asked, memory, weights * _LOWER_SECONDS))
    memory = _PROCESS + weights
    lowered = Action("lower", deploy.model, facts, before, asked, memory, weights * _LOWER_SECONDS)
    found = _units(plan, deploy, lowered.key)
    if not found:
        memory = emit_cost(deploy.target, weights, 1).memory + _PROCESS
        return graph.add(Action("emit", deploy.model, facts, before, asked, memory, weights * _LOWER_SECONDS))
    key = graph.add(lowered)
    for index, (name, count, held) in enumerate(found):
        cost = emit_cost(deploy.target, held, count)
        own = unit_of(key, index)
        asked = request(plan, number, index)
        graph.add(Action("compile", name, own, (key,), asked, cost.memory + BASE, cost.seconds))
    return key


def _prove(plan: Plan) -> Action:
    facts = {
        "plan": digest([sorted(deploy_facts(plan, deploy).items()) for deploy in plan.deploys]),
        "devices": digest(plan.devices),
        "tools": tools_fact(),
    }
    return Action("prove", plan.name, facts, (), request(plan), 2 * _PROCESS, 30.0)


def _step(
    kind: str, plan: Plan, deploy: Deploy, before: tuple[str, ...], asked: dict[str, Any], weights: float
) -> Action:
    facts = solve_facts(plan, deploy)
    if kind == "profile":
        facts |= {"devices": devices_fact(plan, deploy), "code": code_fact(plan.steps(deploy), deploy)}
    memory = _PROCESS + _TORCH + _calibration_bytes(plan, deploy)
    return Action(kind, deploy.model, facts, before, asked, memory, weights * _SOLVE_SECONDS)


def _calibration_bytes(plan: Plan, deploy: Deploy) -> float:
    """Of hidden states and of the largest layer's second moments, in float32."""
    arch, held = plan.models[deploy.model].arch, plan.calibration
    if arch is None or held is None:
        return 0.0
    states = 4.0 * held.samples * held.length * (2 * arch.hidden + arch.intermediate)
    return states + 3 * 4.0 * arch.intermediate**2


def _weights(plan: Plan, deploy: Deploy) -> float:
    """About how many weights the model has: its files in half floats."""
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in plan.models[deploy.model].source.files) / 2
    return 0.0


def _may_have_units(deploy: Deploy) -> bool:
    return find_target(deploy.target).units is not Target.units


def _units(plan: Plan, deploy: Deploy, lowered: str) -> Sequence[tuple[str, int, float]]:
    """Name, graphs and weights of each compile that can be done apart."""
    with contextlib.suppress(ValueError, TypeError):
        held = json.loads(cache.read_note(_SHAPE, lowered) or "null")
        if held is not None:
            return [(str(name), int(count), float(weights)) for name, count, weights in held]
    module, parts = dry_parts(plan, deploy)
    work = {one.name: float(one.macs) for one in model_work(module, parts, deploy).parts}
    found = []
    for cls, own in parts_by_target(deploy, parts).items():
        options = deploy.options if cls.name == deploy.target else cls.Options()
        for unit in cls().units(own, options, plan.devices):
            name = unit.parts[0] if len(unit.parts) == 1 else f"{unit.parts[0]} to {unit.parts[-1]}"
            weights = sum(work.get(part, 0.0) for part in unit.parts)
            found.append((f"{name} for {unit.chip}", unit.graphs // max(1, len(unit.parts)), weights))
    with contextlib.suppress(OSError, EdgecError):
        cache.write_note(_SHAPE, lowered, json.dumps(found))
    return found
