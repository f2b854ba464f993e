"""A compile without work: every line of a pipeline over dry weights, then what each target takes.

    load (headers, config)  ->  steps, dry  ->  parts  ->  Target.takes  ->  refusals at the lines that chose

No weight is read, nothing is solved or measured, torch is not imported. All refusals of all deploys are collected:
a compile starts with this, `edgec check` ends with it. What only numbers or an engine can tell is left to the compile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import Diagnostic, EngineError, Label, PlanError, Span
from ..diagnostics.wording import join_or, some_of
from ..emit.conformance.proof import Proof, plan_trials
from ..emit.engine_lowering import by_rules
from ..emit.refusals import grouped
from ..emit.target import CheckRequest, TakesRequest
from ..ir.levels import Level
from ..pipeline.measured_steps import split_steps
from ..pipeline.pass_interface import Scope
from ..pipeline.step import Step
from ..registry import cache_steps, find_target
from .cut_module import cut_module, parts_by_target
from .model_steps import load_model
from .remembered import held_before, key_of, remember

if TYPE_CHECKING:
    from ..emit.capabilities import Refusal
    from ..emit.part import Part
    from ..emit.target import Target
    from ..ir.module import Module
    from ..plan.plan import Deploy, Plan

Progress = Callable[[str], None]
_SHOWN = 3


def open_questions(plan: Plan) -> list[Deploy]:
    """The deploys whose answer needs a graph or a tokenizer; nothing heavy is imported to tell."""
    return [
        deploy
        for deploy in plan.deploys
        if _needs_graph(plan, deploy) or _reads_text(plan, deploy) or _is_judged(plan, deploy)
    ]


@dataclass
class Findings:
    """What a dry run found: `refused`, and what no table holds, which a run of the engine would tell.

    unproven  refusals for that reason alone, as they read where nothing may be run
    proofs    what would be run, of each deploy
    left      the same in words: number of the deploy line, text
    lowered   what an engine's own lowering makes, as edgec's rules do not cover it: number of the deploy line, text
    warnings  what a step would round that the plan asks it to keep, where no `require` line bounds what that costs
    """

    refused: list[Diagnostic] = field(default_factory=list)
    unproven: list[Diagnostic] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    left: list[tuple[int, str]] = field(default_factory=list)
    lowered: list[tuple[int, str]] = field(default_factory=list)
    warnings: list[Diagnostic] = field(default_factory=list)


def refuse_early(plan: Plan, progress: Progress = lambda _text: None, look: bool = False) -> Findings:
    """Everything that a compile of `plan` would refuse and that can be told without reading a weight.

    `look`: of what is left to be run only `left` is wanted, which a dry run that was remembered has too.
    A plan without such a question, or one whose dry run held before, is answered in milliseconds.
    """
    if not open_questions(plan):
        return Findings()
    key = key_of(plan)
    held = held_before(key)
    if held is not None and all(0 <= number < len(plan.deploys) for number, _ in (*held[0], *held[1])):
        left, lowered = held
        if look or not left:
            return Findings(left=left, lowered=lowered)
    found = dry_run(plan, progress)
    if not found.refused and not found.warnings:
        remember(key, found.left, found.lowered)
    return found


def dry_run(plan: Plan, progress: Progress = lambda _text: None) -> Findings:
    """As `refuse_early`, done anew."""
    all_: Findings = Findings()
    found = all_.refused
    modules: dict[str, Module] = {}
    for deploy in open_questions(plan):
        progress(f"looking at what `as {deploy.target}` takes of `{deploy.model}`")
        try:
            if deploy.model not in modules:
                modules[deploy.model] = dried(load_model(plan.models[deploy.model]))
            module = modules[deploy.model].clone()
            found += _text_problems(plan, deploy, module)
            if _needs_graph(plan, deploy):
                deployed = _Deployed(plan, deploy, module)
                found += deployed.refused()
                all_.warnings += deployed.warnings
                all_.unproven += deployed.unproven
                all_.proofs += deployed.proofs
                all_.lowered += [(plan.deploys.index(deploy), text) for text in deployed.lowered]
        except (PlanError, EngineError) as error:
            found += _placed(error.diagnostics, deploy.span)
    all_.refused = list(dict.fromkeys(found))
    lines = [deploy.span for deploy in plan.deploys]
    all_.left = [(lines.index(proof.line), proof.outlook()) for proof in all_.proofs]
    return all_


def dried(module: Module) -> Module:
    """`module` with every float weight of rank 1 and more a dry one: shape constants keep their numbers."""
    from ..ir.module import constant
    from ..ir.stored_integers import STORED, stored_integers
    from ..ir.weightless import is_big
    from ..ir.weights import DryWeight

    for model in module.graphs.values():
        made: dict[int, DryWeight] = {}
        for value in model.graph.initializers.values():
            tensor = value.const_value
            held = constant(value)
            if held is None or not held.dims or not (held.dtype.is_floating_point() or is_big(held)):
                continue
            if id(tensor) not in made:  # tied weights stay one object
                made[id(tensor)] = DryWeight(held.name, held.dtype, held.dims, held.origin)
                made[id(tensor)].meta.update(held.meta)
                if (integers := stored_integers(held)) is not None:
                    STORED.set(made[id(tensor)], integers.dried())
            value.const_value = made[id(tensor)]
    return module


def _needs_graph(plan: Plan, deploy: Deploy) -> bool:
    steps, model = plan.steps(deploy), plan.models[deploy.model]
    away = frozenset[str]().union(*(step.demands.places for step in steps)) - {deploy.device}
    request = CheckRequest(plan, deploy, steps, plan.devices[0], model.arch)
    return (
        find_target(deploy.target)().looks_at_graphs(request)
        or ((model.arch is None or model.arch.sandwich_norms) and any(step.demands.decoder for step in steps))
        or any(step.demands.stored for step in steps)
        or bool(away)
    )


def _reads_text(plan: Plan, deploy: Deploy) -> bool:
    calibrated = any(s.demands.calibration for s in (*plan.steps(deploy), *cache_steps(deploy.kv, deploy.span)))
    return calibrated and plan.calibration is not None


def _is_judged(plan: Plan, deploy: Deploy) -> bool:
    """Whether the model's perplexity is measured on the plan's `evaluation` text."""
    model = plan.models[deploy.model]
    return plan.evaluation is not None and model.arch is not None and model.source.tokenizer_folder is not None


def _text_problems(plan: Plan, deploy: Deploy, module: Module) -> Iterator[Diagnostic]:
    """What is wrong with the texts that the model is calibrated with and judged on."""
    if module.arch is None:
        return
    from ..calibration.windows import check_text as check_calibration
    from ..oracle.text_perplexity import check_text

    if _reads_text(plan, deploy) and (calibration := plan.calibration) is not None:
        yield from _mistakes(lambda: check_calibration(calibration, module), calibration.span)
    folder = module.tokenizer_folder
    if _is_judged(plan, deploy) and (evaluation := plan.evaluation) is not None and folder is not None:
        yield from _mistakes(lambda: check_text(evaluation.text, folder, evaluation.windows), evaluation.span)


def _mistakes(check: Callable[[], None], at: Span) -> Sequence[Diagnostic]:
    """What `check` raises, at the block `at` where it has no place of its own."""
    try:
        check()
    except PlanError as error:
        return _placed(error.diagnostics, at)
    return ()


def _placed(found: Iterable[Diagnostic], at: Span) -> list[Diagnostic]:
    """Each at its own place; at `at` where it has none."""
    return [one if one.at is not None else replace(one, at=Label(at)) for one in found]


def dry_parts(plan: Plan, deploy: Deploy) -> tuple[Module, list[Part]]:
    """The module of a deploy line behind its steps, and its parts, both with dry weights; PlanError with a mistake."""
    from ..ir.weights import WeightsUnread

    module = dried(load_model(plan.models[deploy.model]))
    deployed = _Deployed(plan, deploy, module)
    for step in deployed.steps():
        with suppress(WeightsUnread):  # a pass that computes with weights leaves shapes as they are
            deployed.run(step)
    return module, cut_module(module, deploy, deployed.steps()).parts


@dataclass
class _Deployed:
    """One deploy line: its module after the dry steps, and which line chose what."""

    plan: Plan
    deploy: Deploy
    module: Module
    formats: dict[str, Span] = field(default_factory=dict)  # node -> the line that gave its weight a format
    unproven: list[Diagnostic] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    warnings: list[Diagnostic] = field(default_factory=list)
    lowered: list[str] = field(default_factory=list)  # what an engine lowers itself, in words

    def steps(self) -> list[Step]:
        """Every step of the line, that of its cache among them, in the order they run."""
        before, behind = split_steps(self.plan.steps(self.deploy))
        return [*before, *cache_steps(self.deploy.kv, self.deploy.span), *behind]

    def refused(self) -> Iterator[Diagnostic]:
        from ..ir.weights import WeightsUnread

        steps = self.steps()
        for step in steps:
            try:
                self.run(step)
            except PlanError as error:
                yield from error.diagnostics
                if step.pass_.leaves is not None and step.pass_.leaves >= Level.PLACED:
                    return  # without its places and shapes the graph is not the one that would be emitted
            except (WeightsUnread, EngineError) as error:
                if isinstance(error, EngineError) and type(step.pass_).__module__.startswith("edgec."):
                    raise
                return  # a pass that computes with weights: what comes behind it is for the compile to see
        found: list[Diagnostic] = []
        with suppress(WeightsUnread):
            found += self._taken(steps)
        yield from found
        if found and self.module.arch is None:
            yield self._instead()

    def _instead(self) -> Diagnostic:
        """Which targets take a plain graph that this one refuses ops of."""
        from .taken_ops import takers

        model = self.plan.models[self.deploy.model]
        chip = next((device for device in self.plan.devices if device.has_npu), None)
        names = takers(dried(load_model(model)), chip)
        ways = join_or([f"`as {name}`" for name in names if name != self.deploy.target])
        message = f"{ways or 'no target'} takes all of `{self.deploy.model}`"
        help = f"`edgec inspect {model.source.text}` has a table of what each target takes, op by op"
        return Diagnostic("E0507", message, Label(self.deploy.span), help=help, severity="note")

    def run(self, step: Step) -> None:
        from ..pipeline.run_steps import apply

        scope = Scope(step.on, step.except_, step.span, self.plan.calibration, dry=True)
        stores = find_target(self.deploy.target).capabilities
        scope.widths, scope.integer_widths, scope.minimums = stores.widths, stores.integer_widths, stores.minimums
        scope.chips = [device for device in self.plan.devices if not device.is_host]
        apply(step, self.module, scope, self.deploy.device)
        if scope.rounded and self.deploy.model not in self.plan.judged:
            self.warnings.append(self._rounds(step, scope.rounded))
        here = str(step.span)
        self.formats.update((name, step.span) for name, line in self.module.decisions.items() if line == here)

    def _rounds(self, step: Step, what: Sequence[str]) -> Diagnostic:
        target, model = self.deploy.target, self.deploy.model
        lacks = f"`as {target}` has no form for {' and '.join(what)}"
        message = f"{lacks}: `{model}` is rounded to nearest, and no `require` line bounds what that costs"
        bound = f"bound it: `require {{ {model}.perplexity <= 1.05 * baseline }}`"
        help = f"`as mnn` or `as ort` keep them; `method = gptq` loses less; or {bound}"
        at = Label(step.place("method"))
        return Diagnostic("W0310", message, at, help=help, severity="warning", models=(model,))

    def _fallen(self, ops: Sequence[str]) -> Diagnostic:
        names = [name for name, _ in map(str.split, ops)]
        shown = some_of([f"`{name}` ({kind})" for name, kind in map(str.split, ops)], _SHOWN)
        model, target = self.deploy.model, self.deploy.target
        message = f"`as {target}` has no form for {shown} of `{model}`: the CPU runs {_them(len(ops))} beside the NPU"
        listed = ", ".join(f'"{name}"' for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        help = f"each is a way to the CPU and back; say so in the plan: `place (device = cpu) on [{listed}]`"
        at = Label(self.deploy.span)
        return Diagnostic("W0603", message, at, help=help, severity="warning", models=(model,))

    def _taken(self, steps: Sequence[Step]) -> Iterator[Diagnostic]:
        cut = cut_module(self.module, self.deploy, steps)
        from .hidden_work import refusals  # over arrays, which a remembered run does without

        yield from refusals(self.plan, self.deploy, self.module, steps)
        if cut.fallen:
            self.warnings.append(self._fallen(cut.fallen))
        for cls, parts in parts_by_target(self.deploy, cut.parts).items():
            options = self.deploy.options if cls.name == self.deploy.target else cls.Options()
            on_chips = any(part.device == "npu" for part in parts)  # a CPU takes the same on every chip
            for device in self.plan.devices if on_chips else self.plan.devices[:1]:
                request = TakesRequest(self.module, parts, device, options, cls.name != self.deploy.target)
                refused = list(cls().takes(request))
                self._say_lowered(cls(), request)
                open_ = self._provable(cls(), request, [one for one in refused if one.unproven])
                self.unproven += self._told([one for one in refused if id(one) in open_], steps)
                yield from self._told([one for one in refused if id(one) not in open_], steps)

    def _say_lowered(self, target: Target, request: TakesRequest) -> None:
        """What edgec's rules lack of a plain graph that `target` has another lowering for."""
        rules = by_rules(request.options)
        if self.module.arch is not None or getattr(rules, "lowering", "") != "edgec" or rules == request.options:
            return
        lacking = {one.node: one for one in target.takes(replace(request, options=rules)) if not one.unproven}
        ops = {node.name: node.op_type for part in request.parts for g in part.graphs.values() for node in g.graph}
        named = [f"`{name}` ({ops[name]})" for name in lacking if name in ops]
        shown = some_of(named, _SHOWN)
        why = f"edgec's rules lack {shown}" if shown else "`lowering = engine` asks for all"
        if not shown and request.options.lowering != "engine":
            return
        text = f"{why} of `{self.deploy.model}`: the graph is made by the engine's own lowering, `as {target.name}`"
        if text not in self.lowered:
            self.lowered.append(text)

    def _told(self, refusals: Iterable[Refusal], steps: Sequence[Step]) -> Iterator[Diagnostic]:
        """Refusals at the lines of the plan that they follow from."""
        by_line: dict[Span, list[Refusal]] = {}
        for refusal in refusals:
            by_line.setdefault(self._line(refusal, steps), []).append(refusal)
        for line, own in by_line.items():
            here = Label(self.deploy.span, f"deployed as {self.deploy.target} here")
            also = () if line == self.deploy.span else (here,)
            yield from grouped(own, Label(line), also)

    def _provable(self, target: Target, request: TakesRequest, refusals: Sequence[Refusal]) -> set[int]:
        """Which of these a run of the engine can answer; what is to be run goes to `proofs`."""
        prover = target.prover(request) if refusals else None
        if prover is None:
            return set()
        uses = list(dict.fromkeys(use for refusal in refusals for use in refusal.unproven))
        trials, left = plan_trials(prover, uses)
        closed = set(left)
        found = [one for one in refusals if closed.isdisjoint(one.unproven)]
        asked = tuple(use for one in found for use in one.unproven)
        if found:
            self.proofs.append(Proof(self.deploy.model, target.name, self.deploy.span, prover, asked, tuple(trials)))
        return {id(one) for one in found}

    def _line(self, refusal: Refusal, steps: Sequence[Step]) -> Span:
        """The line a user would change: of the weight's format, of the place, or of the shapes."""
        if refusal.cause == "format" and refusal.node in self.formats:
            return self.formats[refusal.node]
        for step in reversed(steps):
            demands = step.demands
            if refusal.cause == "shape" and demands.buckets:
                return step.span
            if refusal.cause == "place" and demands.places and Scope(step.on, step.except_).selects(refusal.node):
                return step.span
        return self.deploy.span


def _them(number: int) -> str:
    return "it" if number == 1 else "them"
