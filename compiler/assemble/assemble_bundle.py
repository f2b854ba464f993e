"""The bundle of a plan put together: each model's files, what `require` asks measured, the manifest, the report.

What actions have made is in the cache; where they still run, a model waits for its own (`CompileOptions.ready`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compile.compile_model import CompiledModel, compile_model
from ..compile.options import CompileOptions
from ..compile.requirements import Measured, check_requirements, measure_models
from ..diagnostics.diagnostic import Diagnostic, framed_in
from ..diagnostics.warn import collected
from ..plan.accepted_warnings import found_later, with_warnings
from .compile_result import BrokenRequirement, CompileResult

if TYPE_CHECKING:
    from ..actions.several import Ran
    from ..compile.dry_run import Findings
    from ..files.digests import Digests
    from ..plan.plan import Deploy, Plan


def bundle_path(plan: Plan, output: Path | None) -> Path:
    """Where the bundle of a plan goes."""
    return output if output is not None else Path("build") / plan.name


def assembled(
    plan: Plan,
    output: Path | None,
    options: CompileOptions,
    ran: Ran | None = None,
    findings: Findings | None = None,
) -> CompileResult:
    """The bundle of a plan, made here; `ran`: the actions that make what it takes from the cache.

    `findings`: what was found of the plan then, where nothing had to be run to know it.
    """
    from ..bundle.manifest import ACTIONS
    from ..bundle.write import rejected_path, write_bundle
    from ..compile.estimate_plan import refuse_by_estimate
    from ..compile.prove import settle
    from ..files.digests import Digests
    from ..report.actions_page import write_actions
    from ..runtime.check_texts import check_texts

    final = bundle_path(plan, output)
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
        known = with_warnings(plan, [*found_later(plan, [*warnings, *doubts]), *told])
        result, broken = _finish(known, models, measured, directory, options)
        if options.emission_key is not None:
            rows, samples = _action_rows(models, ran)
            write_actions(directory / ACTIONS, f"{plan.name}: actions of the compile", rows, samples)
        result.bundle = rejected_path(final) if broken else final
        made.append(result)
        if broken:
            raise BrokenRequirement(*broken, result=result)

    with framed_in(plan.sources), collected() as told:
        write_bundle(final, build, rejectable=bool(plan.requires))
    return made[0]


def _action_rows(
    models: list[CompiledModel], ran: Ran | None
) -> tuple[list[dict[str, Any]], Sequence[tuple[float, int]]]:
    """What ran for a bundle and when: the actions of its graph, and what was done here for each model."""
    rows: list[dict[str, Any]] = []
    for one in () if ran is None else tuple(ran.outcome.rows):
        row = {"kind": one.action.kind, "name": one.action.name, "start": one.start, "end": one.end}
        rows.append(row | {"peak": one.peak, "state": one.state, "why": one.why})
    spans = [(model.name, *span) for model in models for span in model.spans]
    began = min((start for *_, start, _ in spans), default=0.0) if ran is None else ran.outcome.began
    for model, what, start, end in spans:
        row = {"kind": "assemble" if ran is not None else what, "name": f"{model}: {what}"}
        rows.append(row | {"start": start - began, "end": end - began, "peak": 0.0, "state": "ran", "why": ""})
    return rows, () if ran is None else tuple(ran.outcome.samples)


def compile_models(plan: Plan, directory: Path, options: CompileOptions, digests: Digests) -> list[CompiledModel]:
    """Every deploy line, up to `jobs` at a time: engines work in processes of their own, so threads are enough.

    Beside actions two at a time: which model's files are there first is not known.
    """
    from concurrent import futures  # `check` does without

    def one(deploy: Deploy) -> CompiledModel:
        made = compile_model(plan, deploy, directory, options, digests)
        if options.emission_key is not None:
            from ..actions.inline import keep_compiled

            keep_compiled(plan, made)
        return made

    jobs = options.jobs if options.ready is None else 2
    if jobs == 1 or len(plan.deploys) == 1:
        return [one(deploy) for deploy in plan.deploys]
    pool = futures.ThreadPoolExecutor(jobs)
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
    from ..bundle.manifest import write_manifest
    from ..compile.manifest_content import assemble, write_offsets
    from ..compile.pack_models import pack_models
    from ..phone.device_sources import runner_rows, write_device_sources
    from ..phone.geniex import write_geniex
    from ..phone.run_script import write_run_script
    from ..plan.measure import Finished
    from ..report.html import write_report
    from ..sources.origin import remember

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
