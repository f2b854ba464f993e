"""From a checked plan to a bundle: load each model, run its pipeline, cut it into parts, emit, measure, assemble.

    Plan --load--> Module --steps--> Module --partition--> Parts --targets--> files --assemble--> manifest.json

Only this module and `cli.py` know the other packages; passes and targets arrive through the registry. The bundle
appears whole or not at all (`bundle.write`), and nothing is measured that was not asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .compile.compile_model import CompiledModel, CompileOptions, Progress, compile_model
from .compile.requirements import Measured, check_requirements, measure_models
from .diagnostics.diagnostic import Diagnostic, EdgecError, PlanError, RequirementError, fail
from .diagnostics.nearest import nearest_help
from .diagnostics.warn import collected
from .files.cache import make_root

if TYPE_CHECKING:
    from .actions.action import Action
    from .actions.preloaded import ForkServer
    from .actions.several import Ran
    from .compile.dry_run import Findings
    from .compile.estimate_plan import Estimate as Estimate
    from .compile.profile import Profiled as Profiled
    from .compile.prove import Proven as Proven
    from .files.digests import Digests
    from .plan.plan import Deploy, Plan

ACTION_WORKER = "edgec.compiler.commands.action_worker"
__all__ = [
    "BrokenRequirement",
    "CompileOptions",
    "CompileResult",
    "by_actions",
    "check_plan",
    "compile_plan",
    "compile_plans",
    "load_plan",
]


@dataclass(repr=False)
class CompileResult:
    """A finished compile: where the bundle is (`<name>.rejected` when a `require` line broke) and what it holds."""

    bundle: Path
    manifest: dict[str, Any]
    models: list[CompiledModel]
    measured: Measured
    warnings: tuple[Diagnostic, ...] = ()  # of the plan's check, those found by the compile's own too

    @property
    def size(self) -> int:
        """Bytes of all files, the manifest itself left out."""
        return sum(row["size"] for row in self.manifest["files"].values())

    @property
    def report(self) -> Path:
        """The report, an HTML page."""
        return self.bundle / "report.html"

    def __repr__(self) -> str:
        names = ", ".join(model.name for model in self.models)
        broken = [row["line"] for row in self.measured.requires if not row["holds"]]
        said = f"; does not hold: {'; '.join(broken)}" if broken else ""
        return f"<compiled {self.bundle}: {names}, {self.size / 1e6:.2f} MB{said}>"

    def _repr_html_(self) -> str:
        from .report.notebook import framed

        return framed(self.report)


def load_plan(path: Path, defines: Sequence[str] = ()) -> Plan:
    """Read and check a plan; raises PlanError with every mistake in it."""
    from ..dsl import load_plan as load

    with collected() as told:
        plan = load(path, list(defines))
    return _with_warnings(plan, told)


def read_plan_text(stream: BinaryIO, name: str) -> str:
    """The text of a plan from an open file, shown as `name` in errors; PlanError if it is none."""
    from ..dsl.plan_text import decode_plan

    return decode_plan(stream, name)


def sweep_axes(
    path: Path, defines: Sequence[str], with_tuned: bool = False
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """What lists behind `-D` vary, name -> values as written, and the definitions that hold at every point.

    Without a list, and `with_tuned` beside the lists, the plan's `tune(…)` lets vary. PlanError for a name that is no
    `let`, values of another kind, an empty list.
    """
    from ..dsl.axes import read_axes

    return read_axes(path, list(defines), with_tuned)


def chosen_text(
    path: Path, values: Mapping[str, str], output: Path, why: str, offered: Mapping[str, Sequence[str]]
) -> str:
    """The text of the plan at `path` with these values of its lets, as it is to be written to `output`."""
    from ..dsl.chosen import chosen_text as text

    return text(path, values, output, why, offered)


def check_plan(
    path: Path,
    defines: Sequence[str] = (),
    text: str | None = None,
    fast: bool = False,
    progress: Progress = lambda _text: None,
    prove: bool = True,
    goal: str | None = None,
) -> tuple[Plan | None, list[Diagnostic], dict[str, str]]:
    """The plan (None if it has errors), all diagnostics, and file -> text for code frames.

    `text` is checked as if it were the content of `path`. Unless `fast`, what the targets would refuse is among the
    errors, found by a dry run of the compile; `progress` is told which graphs that looks at. What no table holds is a
    note that says how much would be run; with `prove` off it is among the errors. `goal` replaces the plan's own.
    """
    from ..dsl import check_file

    with collected() as told:
        plan, diagnostics, sources = check_file(path, defines, text, goal)
    plan = plan and _with_warnings(plan, told)
    if plan is None or fast or not plan.devices:
        return plan, diagnostics, sources
    from .compile.dry_run import refuse_early
    from .runtime.check_texts import check_texts

    with collected() as told:
        findings = refuse_early(plan, progress, look=prove)
        wrong, warnings = check_texts(plan)
    at_models = {(one.code, one.message) for one in wrong}  # a target may find the same at its deploy line
    elsewhere = [one for one in findings.refused if (one.code, one.message) not in at_models]
    refused, notes = list(dict.fromkeys((*elsewhere, *wrong))), []
    warnings = _judged(plan, [*warnings, *findings.warnings])
    plan = _with_warnings(plan, [*warnings, *told])
    if findings.lowered and not refused:
        from .compile.prove import lowered

        notes += lowered(plan, findings)
    if findings.left:
        from .compile.prove import outlook, unproven

        refused += [] if prove else unproven(findings)
        notes += outlook(plan, findings) if prove else []
    return None if refused else plan, [*diagnostics, *warnings, *refused, *notes], sources


def _with_warnings(plan: Plan, found: Sequence[Diagnostic]) -> Plan:
    """The plan with further warnings: they stand in the manifest, the report and what a compile prints."""
    return dataclasses.replace(plan, warnings=tuple(dict.fromkeys((*plan.warnings, *found))))


def _judged(plan: Plan, later: Sequence[Diagnostic]) -> list[Diagnostic]:
    """Warnings found behind the checker, those that the plan accepts marked so."""
    from .plan.accepted_warnings import FOUND_LATER, accepted, never_came

    return [*accepted(plan.deploys, later), *never_came(plan.deploys, later, among=FOUND_LATER)]


def prove_plan(plan: Plan, progress: Progress = lambda _text: None) -> list[Proven]:
    """Run what no table holds of `plan`, and nothing else; PlanError with what is wrong or refused anyway."""
    from .compile.prove import settle

    try:
        make_root()
        return settle(plan, True, progress)
    except EdgecError as error:
        error.sources = error.sources or plan.sources
        raise


def estimate_plan(plan: Plan, progress: Progress = lambda _text: None, memory: int | None = None) -> Estimate:
    """What the bundle will do on its device and what the compile takes; E0962 if that is above `memory` bytes."""
    from .compile.estimate_plan import estimate_plan as estimate
    from .compile.estimate_plan import within_memory

    try:
        _check_request(plan, CompileOptions())
        made = estimate(plan, progress)
        within_memory(plan, made, memory)
        return made
    except EdgecError as error:
        error.sources = error.sources or plan.sources
        raise


def judge_modules(
    plan: Plan, windows: int, progress: Progress = lambda _text: None, only: Collection[str] | None = None
) -> dict[str, tuple[float, float]]:
    """Model -> perplexity of its module and of the float model over `windows` windows; no engine is run."""
    from .compile.module_quality import module_quality

    try:
        make_root()
        return module_quality(plan, windows, progress, only)
    except EdgecError as error:
        error.sources = error.sources or plan.sources
        raise


def profile_plan(plan: Plan, progress: Progress = lambda _text: None) -> list[Profiled]:
    """What the passes of `plan` measure of its models, and nothing else; PlanError with what is wrong or refused."""
    from .compile.profile import profiles
    from .compile.prove import settle

    try:
        make_root()
        settle(plan, True, progress)
        return profiles(plan, progress)
    except EdgecError as error:
        error.sources = error.sources or plan.sources
        raise


class BrokenRequirement(RequirementError):
    """A `require` line does not hold; `result` tells where the rejected bundle is and what was measured."""

    def __init__(self, *diagnostics: Diagnostic, result: CompileResult) -> None:
        super().__init__(*diagnostics)
        self.result = result


def compile_plan(plan: Plan, output: Path | None = None, options: CompileOptions | None = None) -> CompileResult:
    """Compile `plan` into the folder `output` (default `build/<plan name>`).

    Raises PlanError, EngineError, or BrokenRequirement when a `require` line does not hold: the finished bundle is
    then kept as `<name>.rejected`, and what stood at `output` is untouched.
    """
    options = options or CompileOptions()
    if options.actions or options.on is not None:
        made = compile_plans([(plan, output)], options)[0]
        if isinstance(made, EdgecError):
            raise made
        return made
    _check_request(plan, options)
    return _assembled(_measured_k(plan, options), output, options)


def compile_plans(
    requests: Sequence[tuple[Plan, Path | None]], options: CompileOptions | None = None
) -> list[CompileResult | EdgecError]:
    """Compile several plans as one graph of actions: what they share runs once. A result, or why there is none, each.

    `options.jobs` actions run at a time, within `options.memory` bytes, each in a process of its own; with
    `options.on` they run on a scheduler elsewhere. Then the bundles are put together, one after the other. Without
    `options.keep_going` nothing starts after a failure.
    """
    from .actions.preloaded import preloaded

    options = options or CompileOptions()
    here = preloaded(ACTION_WORKER, [plan for plan, _ in requests]) if options.on is None else contextlib.nullcontext()
    with here as server:  # first of all: it imports while this process does
        options = keeping(options)
        ran = _run_actions([plan for plan, _ in requests], options, server)
    made: list[CompileResult | EdgecError] = []
    for number, (plan, (_, output)) in enumerate(zip(ran.plans, requests, strict=True)):
        if isinstance(plan, EdgecError):
            made.append(plan)
            continue
        alone = dataclasses.replace(options, jobs=1, memory=None)
        try:
            made.append(_assembled(plan, output, alone, ran, ran.settled.get(number)))
        except EdgecError as error:
            made.append(error)
    return made


def _run_actions(plans: Sequence[Plan], options: CompileOptions, server: ForkServer | None) -> Ran:
    from .actions.several import run_plans
    from .compile.estimate_plan import refuse_by_estimate

    checked: list[Plan | EdgecError] = []
    for plan in plans:
        try:
            _check_request(plan, options)
            checked.append(_measured_k(plan, options))
            refuse_by_estimate(plan, None, options.progress)  # whether each action fits is known of its graph
        except EdgecError as error:
            checked.append(error)
    return run_plans(checked, options, ACTION_WORKER, server)


def by_actions(
    jobs: int = 1,
    memory: int | None = None,
    on: str | None = None,
    store: str | None = None,
    keep_going: bool = False,
    progress: Progress = lambda _text: None,
) -> CompileOptions:
    """The options with which actions have processes of their own wherever one of these asks for it."""
    asked = jobs > 1 or memory is not None or store is not None or on is not None
    return CompileOptions(
        jobs=jobs, memory=memory, actions=asked, keep_going=keep_going, on=on, store=store, progress=progress
    )


def keeping(options: CompileOptions) -> CompileOptions:
    """The options with which a compile keeps what it makes in the cache, and takes from there what was kept."""
    from .actions.plan_graph import emission_key, lowered_units

    return dataclasses.replace(options, emission_key=emission_key, lowered=lowered_units)


def action_graph(plan: Plan, options: CompileOptions) -> Ran:
    """The actions of a plan without running one; PlanError with what the plan is refused for."""
    from .actions.several import plan_graph

    _check_request(plan, options)
    ran = plan_graph([_measured_k(plan, options)], options)
    if isinstance(ran.plans[0], EdgecError):
        raise ran.plans[0]
    return ran


def unchanged(plan: Plan, output: Path | None) -> dict[str, Any] | None:
    """What was said of the bundle at `output` when it was made, if it was made from all that the plan reads now and
    every file of it is as it was; None if it has to be made.
    """
    from .actions.whole_bundle import kept_facts

    return None if any(line.auto for line in plan.speculates) else kept_facts(plan, _final(plan, output))


def remember_bundle(plan: Plan, result: CompileResult, facts: dict[str, Any]) -> None:
    """Keep what is said of a finished bundle for `unchanged`."""
    from .actions.whole_bundle import keep_facts

    keep_facts(plan, result.bundle, facts)


def _final(plan: Plan, output: Path | None) -> Path:
    return output if output is not None else Path("build") / plan.name


def load_request(action: Action) -> Plan:
    """The plan of an action, as who planned it has it; PlanError with what is wrong."""
    asked = action.request
    plan, diagnostics, sources = check_plan(Path(asked["plan"]), asked["defines"], asked["text"], fast=True)
    if plan is None:
        raise PlanError(*(one for one in diagnostics if one.severity == "error"), sources=sources)
    return _measured_k(plan, CompileOptions())


def _assembled(
    plan: Plan,
    output: Path | None,
    options: CompileOptions,
    ran: Ran | None = None,
    findings: Findings | None = None,
) -> CompileResult:
    """The bundle of a plan, made here; `ran`: what ran for it before, of which everything is in the cache.

    `findings`: what was found of the plan then, where nothing had to be run to know it.
    """
    from .bundle.manifest import ACTIONS
    from .bundle.write import rejected_path, write_bundle
    from .compile.estimate_plan import refuse_by_estimate
    from .compile.prove import settle
    from .files.digests import Digests
    from .report.actions_page import write_actions
    from .runtime.check_texts import check_texts

    final = _final(plan, output)
    made: list[CompileResult] = []

    def build(directory: Path) -> None:
        files = {file: None for deploy in plan.deploys for file in plan.models[deploy.model].source.files}
        with Digests(files) as digests:  # from here on, beside what is found out before a weight is read
            fill(directory, digests)

    def fill(directory: Path, digests: Digests) -> None:
        wrong, warnings = check_texts(plan)
        doubts: list[Diagnostic] = []
        settle(plan, options.prove, options.progress, wrong, doubts, findings)
        refuse_by_estimate(plan, options.memory, options.progress)
        models = compile_models(plan, directory, options, digests)
        measured = measure_models(plan, models, directory, options.progress)
        known = _with_warnings(plan, [*_judged(plan, [*warnings, *doubts]), *told])
        result, broken = _finish(known, models, measured, directory, options)
        if options.emission_key is not None:
            rows, samples = _action_rows(models, ran)
            write_actions(directory / ACTIONS, f"{plan.name}: actions of the compile", rows, samples)
        result.bundle = rejected_path(final) if broken else final
        made.append(result)
        if broken:
            raise BrokenRequirement(*broken, result=result)

    try:
        with collected() as told:
            write_bundle(final, build, rejectable=bool(plan.requires))
    except EdgecError as error:
        error.sources = error.sources or plan.sources
        raise
    return made[0]


def _action_rows(
    models: list[CompiledModel], ran: Ran | None
) -> tuple[list[dict[str, Any]], Sequence[tuple[float, int]]]:
    """What ran for a bundle and when: the actions of its graph, then what was done here for each model."""
    rows: list[dict[str, Any]] = []
    if ran is not None:
        for one in ran.outcome.rows:
            row = {"kind": one.action.kind, "name": one.action.name, "start": one.start, "end": one.end}
            rows.append(row | {"peak": one.peak, "state": one.state, "why": one.why})
    start = max((row["end"] for row in rows), default=0.0)
    for model in models:
        for what, seconds in model.seconds.items():
            row = {"kind": "assemble" if ran is not None else what, "name": f"{model.name}: {what}"}
            rows.append(row | {"start": start, "end": start + seconds, "peak": 0.0, "state": "ran", "why": ""})
            start += seconds
    return rows, () if ran is None else ran.outcome.samples


def _measured_k(plan: Plan, options: CompileOptions) -> Plan:
    """The plan with `k = auto`, and buckets, decided by the pair's own acceptance, measured where it is not known."""
    if not any(line.auto for line in plan.speculates):
        return plan
    from .compile.acceptance import measure_acceptance
    from .compile.decide import decide

    try:
        measure_acceptance(plan, options.progress)
        return decide(plan)
    except EdgecError as error:
        error.sources = error.sources or plan.sources
        raise


def _check_request(plan: Plan, options: CompileOptions) -> None:
    """What is no mistake of the plan, and yet cannot be done."""
    make_root()
    if not plan.deploys:
        help = "add e.g. `deploy NAME on cpu through PIPELINE as mnn`"
        fail("E0212", f"`{plan.path}` deploys nothing: there is no bundle to make", help=help)
    steps = {step.pass_name for pipeline in plan.pipelines.values() for step in pipeline.steps}
    for name in options.print_after:
        if name != "all" and name not in steps:
            help = nearest_help(name, steps, "pass") or "`--print-after` takes a pass of the plan, or `all`"
            fail("E0102", f"no pipeline of the plan has a pass `{name}`", help=help)


def compile_models(plan: Plan, directory: Path, options: CompileOptions, digests: Digests) -> list[CompiledModel]:
    """Every deploy line, up to `jobs` at a time: engines work in processes of their own, so threads are enough."""
    from concurrent import futures  # `check` does without

    def one(deploy: Deploy) -> CompiledModel:
        made = compile_model(plan, deploy, directory, options, digests)
        if options.emission_key is not None:
            from .actions.inline import keep_compiled

            keep_compiled(plan, made)
        return made

    if options.jobs == 1:
        return [one(deploy) for deploy in plan.deploys]
    pool = futures.ThreadPoolExecutor(options.jobs)
    wait = True
    try:
        return list(pool.map(one, plan.deploys))
    except KeyboardInterrupt:
        wait = False  # a model may take hours
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)


def _finish(
    plan: Plan, models: list[CompiledModel], measured: Measured, directory: Path, options: CompileOptions
) -> tuple[CompileResult, list[Diagnostic]]:
    from .bundle.manifest import write_manifest
    from .compile.manifest_content import assemble, write_offsets
    from .compile.pack_models import pack_models
    from .phone.device_sources import runner_rows, write_device_sources
    from .phone.geniex import write_geniex
    from .phone.run_script import write_run_script
    from .plan.measure import Finished
    from .report.html import write_report
    from .sources.origin import remember

    packed = pack_models(models, directory)
    options.progress("sealing the bundle")
    write_offsets(models, directory)
    manifest = assemble(plan, models, measured, directory, packed)
    manifest["libraries"] += runner_rows(manifest)
    write_geniex(directory, manifest)
    for model in models:  # the bundle holds no path of this machine; `verify` asks the cache
        remember(manifest["inputs"][model.name], model.decl.source.path)
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    finished = Finished(directory, manifest, size, measured.perplexity, measured.baseline)
    broken = check_requirements(plan, finished, measured)
    write_device_sources(directory, manifest)
    write_run_script(directory, manifest)
    write_report(directory / "report.html", plan, models, measured, manifest)  # last: it says what all files take
    sealed = write_manifest(directory, manifest)
    return CompileResult(directory, sealed.data, models, measured, plan.warnings), broken
