"""From a checked plan to a bundle: load each model, run its pipeline, cut it into parts, emit, measure, assemble.

    Plan --load--> Module --steps--> Module --partition--> Parts --targets--> files --assemble--> manifest.json

Only this module and `cli.py` know the other packages; passes and targets arrive through the registry. The bundle
appears whole or not at all (`bundle.write_bundle`), and nothing is measured that was not asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cache import make_root
from .diagnostics import Diagnostic, EdgecError, Label, RequirementError, Span, fail
from .levels import Level
from .nearest import nearest_help

if TYPE_CHECKING:
    from .module import Module
    from .pass_base import StepResult
    from .plan import Deploy, ModelDecl, Plan, Require, Step
    from .target import Emission, Part
    from .weight_error import WeightErrors

Progress = Callable[[str], None]


@dataclass(frozen=True)
class CompileOptions:
    """How to compile, as opposed to what: nothing here changes the bundle's bytes."""

    jobs: int = 1
    print_after: tuple[str, ...] = ()
    time_passes: bool = False
    verify_each: bool = False
    explain_skips: bool = False
    progress: Progress = lambda _text: None


@dataclass
class CompiledModel:
    """One deploy line after emission. `compressed` is the module as quantised, before placement and buckets."""

    name: str
    deploy: Deploy
    decl: ModelDecl
    compressed: Module
    final: Module
    parts: list[Part]
    steps: list[StepResult]
    emission: Emission
    weight_errors: dict[str, float] = field(default_factory=dict)  # of quantised linears, see `weight_error`
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Measured:
    """What `evaluation` and `require` asked for."""

    perplexity: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    requires: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class CompileResult:
    """A finished compile: where the bundle is (`<name>.rejected` when a `require` line broke) and what it holds."""

    bundle: Path
    manifest: dict[str, Any]
    models: list[CompiledModel]
    measured: Measured


def load_plan(path: Path, defines: Sequence[str] = ()) -> Plan:
    """Read and check a plan; raises PlanError with every mistake in it."""
    from ..dsl import load_plan as load

    return load(path, list(defines))


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
    from .bundle import rejected_path, write_bundle

    options = options or CompileOptions()
    _check_request(plan, options)
    final = output if output is not None else Path("build") / plan.name
    made: list[CompileResult] = []

    def build(directory: Path) -> None:
        models = compile_models(plan, directory, options)
        measured = measure(plan, models, options.progress)
        result, broken = _finish(plan, models, measured, directory, options)
        result.bundle = rejected_path(final) if broken else final
        made.append(result)
        if broken:
            raise BrokenRequirement(*broken, result=result)

    try:
        write_bundle(final, build)
    except EdgecError as error:
        error.sources = error.sources or plan.sources
        raise
    return made[0]


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


@contextlib.contextmanager
def _blamed_on(span: Span) -> Iterator[None]:
    """Let a failure that names no place in the plan point at `span`."""
    try:
        yield
    except EdgecError as error:
        placed = [d if d.at is not None else dataclasses.replace(d, at=Label(span)) for d in error.diagnostics]
        raise type(error)(*placed) from error


def load_model(decl: ModelDecl) -> Module:
    """The module of a `model` line at level `semantic`; weights stay in their files."""
    with _blamed_on(decl.span):
        return _load(decl)


def _load(decl: ModelDecl) -> Module:
    if decl.source.kind == "onnx":
        from .load_onnx import load_onnx

        return load_onnx(decl.name, decl.source.path, decl.context)
    from .load_hf import load_hf

    return load_hf(decl.name, decl.source.path, decl.context)


def compile_models(plan: Plan, directory: Path, options: CompileOptions) -> list[CompiledModel]:
    """Every deploy line, up to `jobs` at a time: engines work in processes of their own, so threads are enough."""
    if options.jobs == 1:
        return [compile_model(plan, deploy, directory, options) for deploy in plan.deploys]
    with ThreadPoolExecutor(options.jobs) as pool:
        return list(pool.map(lambda deploy: compile_model(plan, deploy, directory, options), plan.deploys))


def compile_model(plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions) -> CompiledModel:
    """Take one deploy line from its source to emitted files below `directory`."""
    with _blamed_on(deploy.span):
        return _compile_model(plan, deploy, directory, options)


def _compile_model(plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions) -> CompiledModel:
    from .partition import partition
    from .registry import targets
    from .weight_error import WeightErrors

    say = options.progress
    decl = plan.models[deploy.model]
    clock = _Clock()
    say(f"{deploy.model}: loading {decl.source.text}")
    module = load_model(decl)
    clock.lap("load")
    steps = plan.pipelines[deploy.pipeline].steps if deploy.pipeline else ()
    weights_steps, shape_steps = _split(steps)
    errors = WeightErrors()
    results = _run(module, [*weights_steps, *_cache_step(deploy)], plan, deploy, options, errors)
    weight_errors = errors.measure(module)
    _say_lines(module, plan)
    compressed = module.clone()
    results += _run(module, shape_steps, plan, deploy, options)
    clock.lap("passes")
    target = targets()[deploy.target]()
    parts = partition(module, deploy.device) if target.engine == "chain" else _whole(module, deploy)
    say(f"{deploy.model}: writing {deploy.target}")
    emission = _emit(module, parts, plan, deploy, directory, options)
    clock.lap("emit")
    return CompiledModel(
        deploy.model, deploy, decl, compressed, module, parts, results, emission, weight_errors, clock.laps
    )


def _say_lines(module: Module, plan: Plan) -> None:
    """Let the lines that decided formats be told from the plan's folder: a bundle holds no path of this machine."""
    folder = plan.path.parent
    shown = {file: Path(os.path.relpath(file, folder)).as_posix() for file in plan.sources}
    for name, line in module.decisions.items():
        file, *place = line.rsplit(":", 2)
        module.decisions[name] = ":".join([shown.get(file, file), *place])


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


def _split(steps: Sequence[Step]) -> tuple[Sequence[Step], Sequence[Step]]:
    """Before and from the first step that places or shapes: perplexity is that of the module in between."""
    for index, step in enumerate(steps):
        leaves = step.pass_.leaves
        if leaves is not None and leaves >= Level.PLACED:
            return steps[:index], steps[index:]
    return steps, ()


def _cache_step(deploy: Deploy) -> list[Step]:
    """What a deploy line's `kv` adds behind the pipeline's work on weights and activations."""
    if deploy.kv == "fp16":
        return []
    from ..passes.kv_cache import KvCache
    from .plan import Step

    return [Step("kv_cache", KvCache(type=deploy.kv), None, (), deploy.span)]


def _run(
    module: Module,
    steps: Sequence[Step],
    plan: Plan,
    deploy: Deploy,
    options: CompileOptions,
    errors: WeightErrors | None = None,
) -> list[StepResult]:
    from .pipeline import PipelineOptions, run_pipeline

    chosen = PipelineOptions(
        print_after=options.print_after,
        time_passes=options.time_passes,
        verify_each=options.verify_each,
        explain_skips=options.explain_skips,
        before_step=errors.before if errors else lambda _module, _step: None,
    )
    return run_pipeline(
        module,
        steps,
        default_device=deploy.device,
        options=chosen,
        calibration=plan.calibration,
        progress=options.progress,
    )


def _whole(module: Module, deploy: Deploy) -> list[Part]:
    from .target import Part

    return [Part(f"{module.name}.{deploy.device}0", deploy.device, dict(module.graphs))]


def _emit(
    module: Module, parts: list[Part], plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions
) -> Emission:
    """Emit each part by the target of its device; CPU parts beside an NPU deploy are ONNX Runtime's."""
    from .registry import targets
    from .target import Emission, EmitJob

    known = targets()
    (directory / deploy.model).mkdir(parents=True, exist_ok=True)
    whole = Emission(engine=known[deploy.target].engine, parts={})
    by_target: dict[str, list[Part]] = {}
    for part in parts:
        serves = deploy.target if part.device in known[deploy.target].devices else "ort"
        by_target.setdefault(serves, []).append(part)
    for name, own in by_target.items():
        target = known[name]()
        job = EmitJob(
            module=module,
            parts=own,
            directory=directory,
            folder=deploy.model,
            device=plan.devices[0],
            options=deploy.options if name == deploy.target else target.Options(),
            origin=deploy.span,
            progress=options.progress,
        )
        emitted = target.emit(job)
        whole.parts.update(emitted.parts)
        whole.libraries += [row for row in emitted.libraries if row not in whole.libraries]
        whole.notes += emitted.notes
        _lay_out_cache(whole, emitted)
        if name == deploy.target:
            whole.engine, whole.float_type = emitted.engine, emitted.float_type
    return whole


def _lay_out_cache(whole: Emission, emitted: Emission) -> None:
    """The model's K/V layout is that of the first target whose parts hold a cache; others say theirs part by part."""
    holders = [
        part
        for part in emitted.parts.values()
        if any(spec["name"].startswith("past_") for graph in part["graphs"].values() for spec in graph["inputs"])
    ]
    if holders or emitted.engine != "chain":  # an engine of whole models keeps its own cache
        whole.kv = whole.kv or emitted.kv
    for part in holders:
        if emitted.kv != whole.kv:
            part["kv"] = emitted.kv


def measure(plan: Plan, models: Sequence[CompiledModel], progress: Progress) -> Measured:
    """Perplexity of each language model on the plan's `evaluation` text, compressed and float, in ONNX Runtime."""
    measured = Measured()
    if plan.evaluation is None:
        return measured
    from .evaluate import module_perplexity

    for model in models:
        if model.compressed.arch is None:
            continue
        progress(f"{model.name}: perplexity over {plan.evaluation.windows} windows")
        text = plan.evaluation.text
        windows = plan.evaluation.windows
        measured.baseline[model.name] = module_perplexity(load_model(model.decl), text, windows, keep=True)
        measured.perplexity[model.name] = module_perplexity(model.compressed, text, windows)
    return measured


def _finish(
    plan: Plan, models: list[CompiledModel], measured: Measured, directory: Path, options: CompileOptions
) -> tuple[CompileResult, list[Diagnostic]]:
    from .assemble import assemble
    from .manifest import write_manifest
    from .report import write_report
    from .sources import remember

    options.progress("sealing the bundle")
    manifest = assemble(plan, models, measured, directory)
    for model in models:  # the bundle holds no path of this machine; `verify` asks the cache
        remember(manifest["inputs"][model.name], model.decl.source.path)
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    failed = []
    for line in plan.requires:
        value, base = _subject(line, size, measured)
        holds = line.holds(value, base)
        measured.requires.append({"line": line.text, "measured": value, "baseline": base, "holds": holds})
        if not holds:
            failed.append(_broken(line, value, base))
    write_report(directory / "report.html", plan, models, measured, manifest)
    sealed = write_manifest(directory, manifest)
    return CompileResult(directory, sealed.data, models, measured), failed


def _subject(line: Require, size: int, measured: Measured) -> tuple[float, float]:
    if line.subject == "bundle.size":
        return float(size), 1.0
    model = line.subject.partition(".")[0]
    return measured.perplexity[model], measured.baseline[model]


def _broken(line: Require, value: float, base: float) -> Diagnostic:
    if line.relative_to_baseline:
        told = f"measured {value:.4f}, which is {value / base:.4f} * baseline ({base:.4f})"
    elif line.subject == "bundle.size":
        told = f"measured {value:.0f} bytes ({value / 1e6:.2f} MB)"
    else:
        told = f"measured {value:.4f}"
    return Diagnostic("E0950", f"`{line.text}` does not hold: {told}", Label(line.span))
