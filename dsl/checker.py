"""From a file to a `Plan`, or to everything that is wrong with it.

Each statement is checked whatever became of the others; a name whose declaration could not be read is not called
unknown. The plan exists only when there is no error.
"""

from __future__ import annotations

import gc
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..compiler.calibration.calibration_text import Calibration
from ..compiler.diagnostics.diagnostic import Diagnostic, EdgecError, Label, PlanError, Span
from ..compiler.diagnostics.foreign_code import ForeignFailure
from ..compiler.emit.capabilities import Wording
from ..compiler.emit.target import CheckRequest, undeployable
from ..compiler.ir.placement import PLACES
from ..compiler.pipeline.measured_steps import unmeasured
from ..compiler.pipeline.step import Step
from ..compiler.plan.accepted_warnings import FOUND_LATER, accepted, never_came
from ..compiler.plan.devices import Device, known_help, resolve_device
from ..compiler.plan.plan import Deploy, Evaluation, Goal, ModelDecl, Plan
from ..compiler.registry import cache_steps, capabilities, find_target, target_names
from . import ast
from .declared import Declared, collect
from .deploys import Deploys
from .diagnostic_collector import DiagnosticCollector
from .lets import Lets
from .loader import Loaded, load
from .models import CheckedModel, check_model, find_files
from .pipelines import Pipelines
from .plan_text import text_for_frames
from .printer import show
from .requires import check_goal, check_requirement
from .settings import CalibrationBlock, EvaluationBlock, Reader

_NO_CONCERN = frozenset(("E0116", "E0117", "E0216", "E0307"))  # of targets: names that match nothing, requirements


def check_file(
    path: Path, defines: Sequence[str] = (), text: str | None = None, goal: str | None = None
) -> tuple[Plan | None, list[Diagnostic], dict[str, str]]:
    """The plan (None when it has errors), all diagnostics in order, and the sources for code frames.

    `text` is checked as if it were the content of `path`; `goal` stands in the place of the plan's own.
    """
    with _uncollected():
        return _check_file(Path(path), defines, text, goal)


def _check_file(
    path: Path, defines: Sequence[str], text: str | None, goal: str | None
) -> tuple[Plan | None, list[Diagnostic], dict[str, str]]:
    report = DiagnosticCollector()
    try:
        loaded = load(Path(path), report, text)
    except PlanError as error:
        return None, list(error.diagnostics), {str(path): text_for_frames(Path(path))}
    checker = _Checker(Path(path), loaded, report)
    if goal is not None:
        place = "--goal"
        loaded.sources[place] = goal
        checker.declared.goals = [ast.Goal(Span(place, 1, 1, 1, len(goal) + 1), goal.strip())]
    plan = checker.run(defines)
    found = report.sorted(loaded.sources)
    if report.errors or plan is None:
        return None, found, loaded.sources
    return replace(plan, warnings=tuple(found)), found, loaded.sources


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: a plan's tree has no circles, and looking for them takes a quarter of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def load_plan(path: Path, defines: Sequence[str] = ()) -> Plan:
    """The plan; PlanError with everything that is wrong with it."""
    plan, diagnostics, sources = check_file(path, defines)
    if plan is None:
        raise PlanError(*diagnostics, sources=sources)
    return plan


class _Checker:
    def __init__(self, path: Path, loaded: Loaded, report: DiagnosticCollector) -> None:
        self.path = path
        self.loaded = loaded
        self.report = report
        self.declared: Declared = collect(loaded, report)
        self.lets = Lets(report, self.declared.lets, lost=loaded.lost_names("let"))
        self.reader = Reader(report, self.lets)
        self.models: dict[str, CheckedModel] = {}

    def run(self, defines: Sequence[str]) -> Plan | None:
        if not self.loaded.statements:
            if not self.loaded.lost and not self.report.errors:
                help = "a plan begins like `plan chat`; docs/language.md shows a whole one"
                self.report.error("E0212", f"`{self.path}` holds no statement", None, help=help)
            return None
        self.lets.override(defines, self.loaded.sources)
        self.lets.check()
        self.declared.deploys = [self._placed_by_lets(line) for line in self.declared.deploys]
        plan = Plan(
            name=self.declared.name.name.text if self.declared.name else self.path.stem.strip("<>"),
            path=self.path,
            models=self._models(),
            devices=self._devices(),
            calibration=self._calibration(),
            evaluation=self._evaluation(),
            pipelines={},
            deploys=(),
            speculates=(),
            requires=(),
            defines=self.lets.values(),
            overridden=tuple(self.lets.overrides),
            sources=self.loaded.sources,
            tuned={name: tuple(map(show, tune.values)) for name, tune in self.lets.tuned.items()},
        )
        plan = self._deployed(plan)
        plan = self._decided(plan)
        self._possible(plan)
        self._measurable(plan)
        self._targets_agree(plan)
        self._unused()
        self._rounded(plan)
        self._acknowledged(plan)
        return plan

    def _placed_by_lets(self, line: ast.Deploy) -> ast.Deploy:
        """The line with place, pipeline and target as lets name them, where nothing else has the name."""

        def named(name: ast.Name, taken: Container[str]) -> ast.Name:
            value = self.lets.resolve(ast.Word(name.span, name.text)) if name.text not in taken else None
            return ast.Name(name.span, value.text) if isinstance(value, ast.Word) else name

        pipeline = line.pipeline and named(line.pipeline, self.declared.pipelines)
        return replace(
            line, place=named(line.place, PLACES), pipeline=pipeline, target=named(line.target, target_names())
        )

    def _models(self) -> dict[str, ModelDecl]:
        found = {}
        for name, model in self.declared.models.items():
            checked = check_model(model, self.reader)
            if checked is not None:
                self.models[name] = checked
                found[name] = checked.decl
        return found

    def _devices(self) -> tuple[Device, ...]:
        statement = self.declared.device
        if statement is None:
            if self.declared.deploys and not self.loaded.lost_names("device") and not self.loaded.gave_up:
                help = "add e.g. `device snapdragon_8_gen_3`, or `device host` for this machine"
                self.report.error("E0212", "the plan names no device", self.declared.deploys[0].span, help=help)
            return ()
        value = self.lets.resolve(statement.value)
        items = value.items if isinstance(value, ast.ListLiteral) else (value,)
        if not items:
            help = "add e.g. `device snapdragon_8_gen_3`, or `device host` for this machine"
            self.report.error("E0212", "the plan names no device", statement.value.span, help=help)
        found = [(item, device) for item in items if item is not None and (device := self._device(item)) is not None]
        self._share_a_bundle(found)
        return tuple(dict.fromkeys(device for _, device in found))

    def _device(self, value: ast.Value) -> Device | None:
        if isinstance(value, ast.Word):
            text = value.text
        elif isinstance(value, ast.String):
            text = value.value
        else:
            help = "write the name, e.g. `device snapdragon_8_gen_3`, `device sm8650` or a list of them"
            self.report.error("E0201", "a device is a name", value.span, help=help)
            return None
        found = resolve_device(text)
        if found is None:
            self.report.error("E0103", f"unknown device `{text}`", value.span, help=known_help(text))
        return found

    def _share_a_bundle(self, found: Sequence[tuple[ast.Value, Device]]) -> None:
        """E0218 for devices one bundle cannot hold: this machine beside a phone, or one chip twice."""
        first: dict[Device, ast.Value] = {}
        for value, device in found:
            if device in first:
                message = f"`{device.name}` is named twice"
                also = [Label(first[device].span, "first here")]
                self.report.error("E0218", message, value.span, also=also, help="name each chip once")
            first.setdefault(device, value)
        hosts = [value for device, value in first.items() if device.is_host]
        if hosts and len(first) > 1:
            message = "a bundle for this machine's CPU cannot be one for phones too"
            self.report.error("E0218", message, hosts[0].span, help="make a plan for each, and `include` the rest")

    def _calibration(self) -> Calibration | None:
        block = self.declared.calibration
        values = block and self.reader.read(block.settings, CalibrationBlock, "calibration", block.span)
        if block is None or values is None:
            return None
        texts = find_files(block.settings, "text", self.lets, self.report)
        return Calibration(**{**_defaults(CalibrationBlock, values[0]), "text": texts}, span=block.span)

    def _evaluation(self) -> Evaluation | None:
        block = self.declared.evaluation
        values = block and self.reader.read(block.settings, EvaluationBlock, "evaluation", block.span)
        if block is None or values is None:
            return None
        texts = find_files(block.settings, "text", self.lets, self.report)
        return Evaluation(**{**_defaults(EvaluationBlock, values[0]), "text": texts}, span=block.span)

    def _deployed(self, plan: Plan) -> Plan:
        """Pipelines, deploys, speculation and requirements: what refers to the rest."""
        pipelines = Pipelines(self.reader, self.loaded)
        for pipeline in self.declared.pipelines.values():
            pipelines.check(pipeline)
            self._fit_models(pipelines, pipeline.name.text)
        self._calibrated(pipelines)
        checker = Deploys(self.reader, self.loaded, self.declared, plan.devices)
        deploys: dict[str, Deploy] = {}
        for line in self._once(self.declared.deploys):
            deploy = checker.check(line)
            if deploy is not None:
                deploys[deploy.model] = deploy
        speculates = [
            checker.check_speculate(line, deploys, plan.models, pipelines.checked)
            for line in self._one_speculation(self.declared.speculates)
        ]
        graphs = {name for name, checked in self.models.items() if checked.arch is None}
        requires = [
            check_requirement(condition, self.declared, self.loaded, self.reader, graphs, plan.devices)
            for statement in self.declared.requires
            for condition in statement.conditions
        ]
        return replace(
            plan,
            pipelines=pipelines.checked,
            deploys=tuple(deploys.values()),
            speculates=tuple(x for x in speculates if x is not None),
            requires=tuple(x for x in requires if x is not None),
            goal=self._goal(plan, graphs),
        )

    def _goal(self, plan: Plan, graphs: set[str]) -> Goal | None:
        for again in self.declared.goals[1:]:
            also = [Label(self.declared.goals[0].span, "first here")]
            help = "one figure can be best: bound the other by a line of `require`"
            self.report.error("E0109", "the plan has two goals", again.span, also=also, help=help)
        goals = self.declared.goals[:1]
        return check_goal(goals[0], self.declared, self.loaded, self.reader, graphs, plan.devices) if goals else None

    def _decided(self, plan: Plan) -> Plan:
        """The plan with every `auto` settled, once nothing is wrong that it depends on."""
        from ..compiler.compile.decide import decide, undecided  # a plan without `auto` needs no estimate

        if self.report.errors or self.loaded.lost or not plan.devices or not undecided(plan):
            return plan
        try:
            return decide(plan)
        except PlanError as error:
            self.report.take(error, plan.deploys[0].span)
            return plan

    def _calibrated(self, pipelines: Pipelines) -> None:
        """Steps that read calibration text need some."""
        if self.declared.calibration is not None or self.loaded.lost_names("calibration"):
            return
        for name, step in ((name, step) for name, pipeline in pipelines.checked.items() for step in pipeline.steps):
            setting = step.demands.calibration
            if setting and not (setting.startswith("activations") and self._of_graphs_alone(name)):
                message = f"`{setting}` needs a `calibration` block, but the plan has none"
                other = step.demands.without_calibration
                help = 'add `calibration { text = "calib/*.txt" }`' + (f", or {other}" if other else "")
                self.report.error("E0454", message, step.place(setting.split()[0], "weights"), help=help)

    def _of_graphs_alone(self, pipeline: str) -> bool:
        """Whether plain graphs alone go through a pipeline: their activations are measured on samples, not on text."""
        names = [line.model.text for line in self.declared.deploys if line.pipeline and line.pipeline.text == pipeline]
        return bool(names) and all(name in self.models and self.models[name].arch is None for name in names)

    def _cache_calibrated(self, steps: Sequence[Step]) -> None:
        """The same of what a deploy line's `kv` adds, where no other line has said so."""
        told = any(one.code == "E0454" for one in self.report.diagnostics)
        if told or self.declared.calibration is not None or self.loaded.lost_names("calibration"):
            return
        for step in steps:
            if setting := step.demands.calibration:
                message = f"`{setting}` needs a `calibration` block, but the plan has none"
                help = 'add `calibration { text = "calib/*.txt" }`, or leave out `kv`'
                self.report.error("E0454", message, step.span, help=help)

    def _possible(self, plan: Plan) -> None:
        """What a line needs of this machine and of the model, whatever the target: torch, room for its buckets."""
        found: dict[Diagnostic, None] = {}
        for deploy in plan.deploys:
            model = plan.models.get(deploy.model)
            pipeline = plan.pipelines.get(deploy.pipeline or "")
            steps = deploy.decided or (pipeline.steps if pipeline else ())
            if deploy.kv in find_target(deploy.target).capabilities.caches:
                self._cache_calibrated(cache_steps(deploy.kv, deploy.span))
            for step in (*steps, *cache_steps(deploy.kv, deploy.span)):
                problems = [step.demands.without_torch(step.span)]
                if model is not None:
                    problems.append(step.demands.beyond_context(model.name, model.context, step.span))
                found.update((problem, None) for problem in problems if problem is not None)
        self.report.diagnostics += found
        self._one_token(plan)
        self._readable(plan)

    def _rounded(self, plan: Plan) -> None:
        """W0307 and W0308 where weights are rounded to nearest at few bits, or pruned, and nothing bounds the cost."""
        if self.loaded.lost or self.report.errors:  # the line that bounds it may be the one that is wrong
            return
        judged = plan.judged | {line.draft for line in plan.speculates}  # what a draft says is checked by its target
        for deploy in plan.deploys:
            pipeline = plan.pipelines.get(deploy.pipeline or "")
            decoder = deploy.model in self.models and self.models[deploy.model].arch is not None
            if pipeline is None or not decoder or deploy.model in judged:
                continue
            self._unbounded(deploy.model, pipeline.steps)

    def _unbounded(self, model: str, steps: Sequence[Step]) -> None:
        """Say it once of each kind."""
        bound = f"bound it: `require {{ {model}.perplexity <= 1.05 * baseline }}`"
        rounded = next((step for step in steps if step.demands.better is not None), None)
        pruned = next((step for step in steps if step.demands.prunes), None)
        if rounded is not None:
            message = f"`{model}` is rounded to nearest, and no `require` line bounds what that costs"
            help = f"{rounded.demands.better}, or {bound}"
            at = rounded.place("weights", "method")
            self.report.warning("W0307", message, at, help=help, models=(model,))
        if pruned is not None:
            message = f"`{model}` loses weights, and no `require` line bounds what that costs"
            help = f"{bound}, with an `evaluation` text"
            at = pruned.place("pattern", "method")
            self.report.warning("W0308", message, at, help=help, models=(model,))

    def _one_token(self, plan: Plan) -> None:
        """W0304 where a model that writes text alone has no bucket of one token."""
        targets = {line.target for line in plan.speculates}
        for deploy in plan.deploys:
            pipeline = plan.pipelines.get(deploy.pipeline or "")
            steps = deploy.decided or (pipeline.steps if pipeline else ())
            for step in steps if deploy.model not in targets else ():
                smallest = min((tokens for tokens, _ in step.demands.buckets), default=1)
                if smallest > 1:
                    message = f"`{deploy.model}` has no bucket of one token: each token it writes costs a padded call"
                    also = f"the smallest takes {smallest} tokens"
                    help = f"add 1: `tokens = [1, {smallest}, …]`"
                    self.report.warning("W0304", message, step.place("tokens"), also, help, (deploy.model,))

    def _readable(self, plan: Plan) -> None:
        """Perplexity is measured on text, which takes the model's tokenizer."""
        deployed = [plan.models[deploy.model] for deploy in plan.deploys if deploy.model in plan.models]
        for model in deployed if plan.evaluation is not None else ():
            folder = model.source.tokenizer_folder
            if model.arch is None or plan.evaluation is None or (folder and (folder / "tokenizer.json").is_file()):
                continue
            message = f"perplexity is measured on text, and `{model.name}` has no `tokenizer.json`"
            help = (
                "save the tokenizer beside the model, or leave out `evaluation` and what `require` asks of perplexity"
            )
            also = [Label(model.span, f"in `{folder}`" if folder else "this model")]
            self.report.error("E0309", message, plan.evaluation.span, also=also, help=help)

    def _measurable(self, plan: Plan) -> None:
        """Where perplexity is measured, no step may change the model behind its back."""
        if plan.evaluation is None:
            return
        found: dict[Diagnostic, None] = {}
        for deploy in plan.deploys:
            if deploy.pipeline is not None and deploy.pipeline not in plan.pipelines:
                continue  # its lines have mistakes of their own
            if deploy.model in self.models and self.models[deploy.model].arch is not None:
                found.update(dict.fromkeys(unmeasured(plan.steps(deploy))))
        self.report.diagnostics += found

    def _fit_models(self, pipelines: Pipelines, name: str) -> None:
        """Globs and blocks have to fit the models that go through a pipeline."""
        through = [d.model.text for d in self.declared.deploys if d.pipeline and d.pipeline.text == name]
        nodes = {model: self.models[model].nodes for model in through if model in self.models}
        if nodes and len(nodes) == len(set(through)):
            pipelines.check_globs(name, nodes)
            pipelines.check_weights(name, [self.models[model] for model in nodes])

    def _once(self, deploys: Sequence[ast.Deploy]) -> list[ast.Deploy]:
        first: dict[str, ast.Deploy] = {}
        for line in deploys:
            if line.model.text in first:
                message = f"`{line.model.text}` is deployed twice"
                self.report.error("E0120", message, line.model.span, help="declare a second model of the same source")
            else:
                first[line.model.text] = line
        return list(first.values())

    def _one_speculation(self, lines: Sequence[ast.Speculate]) -> Sequence[ast.Speculate]:
        for line in lines[1:]:
            also = [Label(lines[0].span, "first here")]
            help = "a bundle has one pair of draft and target: leave one out, or make a plan for each"
            self.report.error("E0109", "the plan has two `speculate` statements", line.span, also=also, help=help)
        return lines[:1]

    def _targets_agree(self, plan: Plan) -> None:
        """Ask each target about its deploy line, once everything it may look at is right.

        Beside mistakes that are no concern of it, it is asked for further ones only.
        """
        wrong = {found.code for found in self.report.diagnostics if found.severity == "error"}
        if wrong - _NO_CONCERN or not plan.devices:
            return
        wording = Wording(capabilities)
        for deploy in plan.deploys:
            arch, target = self.models[deploy.model].arch, find_target(deploy.target)
            requests = [CheckRequest(plan, deploy, plan.steps(deploy), device, arch) for device in plan.devices]
            try:
                of_each = [one for request in requests for one in target().check(request)]
                for found in dict.fromkeys((*undeployable(target, requests[0], wording), *of_each)):
                    if wrong and found.severity != "error":
                        continue
                    self.report.take(PlanError(replace(found, models=(deploy.model,))), deploy.span)
            except EdgecError as error:
                self.report.take(error, deploy.span)
            except ForeignFailure as failure:
                if target.__module__.startswith("edgec."):
                    raise failure.error from None  # our own mistake is not the user's
                message = f"the target `{deploy.target}` is broken: its check raised {failure}"
                self.report.error("E0118", message, deploy.span)

    def _acknowledged(self, plan: Plan) -> None:
        """Mark the warnings that a deploy line accepts; W0306 for those that never came, once nothing is wrong."""
        found = list(self.report.diagnostics)
        late = () if self.report.errors else never_came(plan.deploys, found, beside=FOUND_LATER)
        self.report.settle([*accepted(plan.deploys, found), *late])

    def _unused(self) -> None:
        if self.loaded.lost or self.report.errors:  # what looks unused may be named by a line that is wrong
            return
        deployed = {line.model.text for line in self.declared.deploys}
        through = {line.pipeline.text for line in self.declared.deploys if line.pipeline}
        if not deployed:
            help = "add e.g. `deploy NAME on cpu through PIPELINE as mnn`"
            self.report.warning("W0303", "the plan deploys nothing", None, help=help)
            return
        for name, pipeline in self.declared.pipelines.items():
            if name not in through:
                self.report.warning("W0301", f"no model goes through the pipeline `{name}`", pipeline.name.span)
        for name, model in self.declared.models.items():
            if name not in deployed:
                self.report.warning("W0302", f"the model `{name}` is not deployed", model.name.span)


def _defaults(cls: type, values: dict) -> dict:
    return vars(cls(**values))
