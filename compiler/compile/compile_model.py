"""One deploy line, from its source to emitted files.

    load -> steps on weights -> compressed -> steps that place and shape -> parts -> the targets' files

Perplexity is that of `compressed`: what follows changes where and in which shapes the model runs. A later pass that
changes what it computes runs on `compressed` as well (`pipeline/measured_steps.py`).
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import blamed_on
from ..diagnostics.wording import of_all_layers
from ..ir import kv_names

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..emit.part import Part
    from ..emit.target import Emission, EmitJob, Target
    from ..files.digests import Digests
    from ..ir.module import Module
    from ..memory.memory_plan import MemoryPlan
    from ..partition.parts import PartGraph
    from ..pipeline.pass_interface import StepResult
    from ..pipeline.step import Step
    from ..plan.plan import Deploy, ModelDecl, Plan
    from ..proof.not_taken import Wrong

_COPIED = 50e6  # bytes a second: files that are written faster are not worth a copy in the cache, sealed and synced

Progress = Callable[[str], None]


@dataclass(frozen=True)
class CompileOptions:
    """How to compile, as opposed to what: nothing here changes the bundle's bytes."""

    jobs: int = 1
    print_after: tuple[str, ...] = ()
    time_passes: bool = False
    verify_each: bool = False
    explain_skips: bool = False
    profiling: bool = False  # measure what is only told, too
    memory: int | None = None  # bytes that the compile may take, by its estimate; None: not asked
    prove: bool = True  # run what no conformance table holds; off: it is refused
    actions: bool = False  # run its actions in processes first, also where `jobs` is 1
    keep_going: bool = False  # of its actions, run what does not need one that failed
    on: str | None = None  # the scheduler that runs its actions (`dask://host:port`); None: this machine
    store: str | None = None  # where workers elsewhere leave and find results; None: the cache, which they share
    # the key that the files of a deploy line are kept under in the cache for later compiles; None: none are kept
    emission_key: Callable[[Plan, Deploy], str] | None = None
    # what lowering a deploy line apart from its compiles said of them (`Target.lower`); None: nothing is known
    lowered: Callable[[Plan, Deploy], list[dict[str, Any]]] | None = None
    # returns when actions that run meanwhile have left what a model needs from them at a stage: its weights' solutions,
    # its lowered graphs, its files; None: nothing runs meanwhile
    ready: Callable[[str, str], None] | None = None
    progress: Progress = lambda _text: None


@dataclass(repr=False)
class CompiledModel:
    """One deploy line after emission. `compressed` is the module as quantised, before placement and buckets."""

    name: str
    deploy: Deploy
    decl: ModelDecl
    compressed: Module
    final: Module
    cut: PartGraph
    steps: list[StepResult]
    emission: Emission
    weight_errors: dict[str, float] = field(default_factory=dict)  # of quantised linears, see `weight_error`
    spans: list[tuple[str, float, float]] = field(default_factory=list)  # what was done from when to when, `_Clock`
    sources: dict[str, str] = field(default_factory=dict)  # sha256 of the files it was read from, by name

    @property
    def seconds(self) -> dict[str, float]:
        """What was done and how long it took."""
        return {name: sum(end - start for one, start, end in self.spans if one == name) for name, *_ in self.spans}

    @functools.cached_property
    def memory(self) -> MemoryPlan:
        """Where the values of its parts lie while they run."""
        return planned_memory(self.deploy, self.cut.parts)

    def notes(self) -> list[str]:
        """What its passes and its target remarked, in order."""
        return of_all_layers([note for step in self.steps for note in step.notes] + list(self.emission.notes))

    def __repr__(self) -> str:
        return f"<compiled {self.name}: {', '.join(self.emission.parts)}>"


def load_model(decl: ModelDecl) -> Module:
    """The module of a `model` line at level `semantic`; weights stay in their files.

    A decoder that was read out of a graph is proven beside it first.
    """
    with blamed_on(decl.span):
        module = decl.source.reader.load(decl.name, decl.source.path, decl.context)
        if module.original is not None:
            from ..oracle.rebuilt import prove_rebuilt

            prove_rebuilt(module)
        return module


def compile_model(
    plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions, digests: Digests
) -> CompiledModel:
    """Take one deploy line to files below `directory`; `digests` are of all files of the plan's models."""
    with blamed_on(deploy.span):
        made = _compile_model(plan, deploy, directory, options)
        made.sources = {path.name: digests.of(path) for path in plan.models[deploy.model].source.files}
        return made


def _compile_model(plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions) -> CompiledModel:
    from .emit_parts import BESIDE
    from .hidden_work import with_times

    clock = _Clock()
    done = _passed(plan, deploy, options, clock)
    options.progress(f"{deploy.model}: writing {deploy.target}")
    waiting = replace(options, ready=clock.waiting("lower", options.ready)) if options.ready is not None else options
    cut, emission, fallen = _emitted(done.module, plan, deploy, directory, waiting)
    results = with_times(done.results, plan, deploy, done.module, plan.steps(deploy))  # of the module as it was cut
    emission.notes = [
        *cut.notes,
        *emission.notes,
        *(f"{BESIDE} runs a node beside {deploy.target}: {node.text()}" for node in fallen),
    ]
    clock.lap("emit")
    decl = plan.models[deploy.model]
    return CompiledModel(
        deploy.model, deploy, decl, done.compressed, done.module, cut, results, emission, done.errors, clock.spans
    )


def _emitted(
    module: Module, plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions, keep: bool = False
) -> tuple[PartGraph, Emission, list[Wrong]]:
    """The parts of a module behind its steps, what was written of them, and the nodes that are not the engine's.

    What was written is kept for later compiles where the first cut was the last (they cut as this one did) and where
    writing it took longer than a copy does, or whatever it took if it is to be kept.
    """
    from .emit_parts import emit_parts
    from .kept_emission import keep_emission

    if options.ready is not None:
        options.ready(deploy.model, "lowered")
    steps, folder, start = plan.steps(deploy), directory / deploy.model, time.perf_counter()
    cut, emission, fallen = emit_parts(
        module,
        deploy,
        lambda: cut_module(module, deploy, steps),
        lambda cut: _emit(module, cut, plan, deploy, directory, options),
        folder,
        placed_by(steps, deploy),
        options.progress,
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    worth = keep or size < _COPIED * (time.perf_counter() - start)
    key = _kept_key(plan, deploy, cut.parts, options) if worth and not fallen else None
    if key is not None:
        keep_emission(key, folder, emission)
    return cut, emission, fallen


def _kept_key(plan: Plan, deploy: Deploy, parts: Sequence[Part], options: CompileOptions) -> str | None:
    """The key that the files of a deploy line are kept under; None: they are not, or its units are kept instead."""
    divided = parts_by_target(deploy, parts)
    apart = any(cls().units(own, deploy.options, plan.devices) for cls, own in divided.items())
    return None if options.emission_key is None or apart else options.emission_key(plan, deploy)


@dataclass
class _Passed:
    """A model behind its steps, not yet cut into parts."""

    module: Module
    compressed: Module
    results: list[StepResult]
    errors: dict[str, float]


def _passed(plan: Plan, deploy: Deploy, options: CompileOptions, clock: _Clock, reported: bool = True) -> _Passed:
    """The model behind its steps; its weights' errors are found only where they are `reported`."""
    from ..pipeline.measured_steps import late_changes, split_steps
    from ..registry import cache_steps
    from .weight_error import weight_errors

    decl = plan.models[deploy.model]
    options.progress(f"{deploy.model}: loading {decl.source.text}")
    module = load_model(decl)
    if options.ready is None:
        clock.lap("load")
    else:
        clock.waiting("load", options.ready)(deploy.model, "weights")
    weights_steps, shape_steps = split_steps(plan.steps(deploy))
    results = run_steps(module, [*weights_steps, *cache_steps(deploy.kv, deploy.span)], plan, deploy, options)
    errors = weight_errors(module) if reported else {}
    _say_lines(module, plan)
    compressed = module.clone()
    if late := late_changes(plan.steps(deploy)):
        run_steps(compressed, late, plan, deploy, options)
    results += run_steps(module, shape_steps, plan, deploy, options)
    if module.arch is None:
        from .observe_shapes import observe_shapes

        observe_shapes(module)
    clock.lap("passes")
    return _Passed(module, compressed, results, errors)


def solve_model(plan: Plan, deploy: Deploy, options: CompileOptions) -> None:
    """Run the steps on weights: what they solve, measure and learn is in the cache then."""
    from ..pipeline.measured_steps import split_steps

    with blamed_on(deploy.span):
        weights_steps, _ = split_steps(plan.steps(deploy))
        run_steps(load_model(plan.models[deploy.model]), weights_steps, plan, deploy, options)


def lower_model(plan: Plan, deploy: Deploy, options: CompileOptions) -> list[dict[str, Any]]:
    """Take one deploy line as far as the compiles that can be done apart; each as `Target.lower` describes it."""
    from ..files.scratch import scratch_folder
    from .emit_parts import emit_parts

    with blamed_on(deploy.span), scratch_folder("lower") as folder:
        module, steps = _passed(plan, deploy, options, _Clock(), reported=False).module, plan.steps(deploy)

        def lower(cut: PartGraph) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            for cls, own in parts_by_target(deploy, cut.parts).items():
                job = _job(cls, own, module, plan, deploy, folder, options)
                found += [{"target": cls.name, **facts} for facts in cls().lower(job)]
            return found

        place = folder / deploy.model
        return emit_parts(
            module, deploy, lambda: cut_module(module, deploy, steps), lower, place, placed_by(steps, deploy),
            options.progress,
        )[1]  # fmt: skip


def emit_model(plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions) -> None:
    """Leave the files of one deploy line in the cache, under `options.emission_key`; they are below `directory` too."""
    with blamed_on(deploy.span):
        module = _passed(plan, deploy, options, _Clock(), reported=False).module
        _emitted(module, plan, deploy, directory, options, keep=True)


def _say_lines(module: Module, plan: Plan) -> None:
    """Make the plan lines in `decisions` relative to the plan's folder: a bundle contains no path of this machine."""
    folder = plan.path.parent
    shown = {file: Path(os.path.relpath(file, folder)).as_posix() for file in plan.sources}
    for name, line in module.decisions.items():
        file, *place = line.rsplit(":", 2)
        module.decisions[name] = ":".join([shown.get(file, file), *place])


class _Clock:
    """What was done from when to when, by `time.perf_counter`; time that was waited in between is nobody's."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, float, float]] = []
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.spans.append((name, self._last, now))
        self._last = now

    def waiting(self, name: str, ready: Callable[[str, str], None]) -> Callable[[str, str], None]:
        """`ready` of which the waiting counts for nothing; what is done up to there is `name`."""

        def wait(model: str, stage: str) -> None:
            self.lap(name)
            ready(model, stage)
            self._last = time.perf_counter()

        return wait


def run_steps(
    module: Module,
    steps: Sequence[Step],
    plan: Plan,
    deploy: Deploy,
    options: CompileOptions,
) -> list[StepResult]:
    """Run `steps` over `module` as a compile of `deploy` does; what each of them did."""
    from ..pipeline.run_steps import PipelineOptions, run_pipeline
    from ..registry import find_target

    chosen = PipelineOptions(
        print_after=options.print_after,
        time_passes=options.time_passes,
        verify_each=options.verify_each,
        explain_skips=options.explain_skips,
        profiling=options.profiling,
    )
    stores = find_target(deploy.target).capabilities
    return run_pipeline(
        module,
        steps,
        default_device=deploy.device,
        options=chosen,
        calibration=plan.calibration,
        progress=options.progress,
        widths=stores.widths,
        integer_widths=stores.integer_widths,
        minimums=stores.minimums,
        chips=[device for device in plan.devices if not device.is_host],
    )


def placed_by(steps: Sequence[Step], deploy: Deploy) -> Callable[[str], bool]:
    """Whether a step puts an op of that name where the model is deployed."""
    from ..pipeline.pass_interface import Scope

    scopes = [Scope(step.on, step.except_) for step in steps if deploy.device in step.demands.places]
    return lambda name: any(scope.selects(name) for scope in scopes)


def cut_module(module: Module, deploy: Deploy, steps: Sequence[Step]) -> PartGraph:
    """The module behind `steps` in parts, or as one part for an engine that runs a model whole.

    Where the target has no lookup in integers, embeddings go to the CPU unless a step has placed them.
    """
    from ..emit.part import Part
    from ..partition.lacking import lacking_on_cpu
    from ..partition.lookups import look_up_on_cpu, lost_sharing
    from ..partition.parts import PartGraph, partition
    from ..partition.shadows import shadows_on_cpu
    from ..registry import find_target
    from .cpu_parts import give_cpu_parts

    kept = placed_by(steps, deploy)
    target = find_target(deploy.target)
    if target.engine == "chain" or module.arch is None:  # an engine of language models is a chain for other graphs
        moved = [] if target.capabilities.lookups else look_up_on_cpu(module, deploy.device, kept)
        by_engine = module.arch is None and getattr(deploy.options, "lowering", "edgec") != "edgec"
        fallen = [] if by_engine else lacking_on_cpu(module, deploy.device, target().lacking, kept)
        beside = shadows_on_cpu(module, deploy.device)
        beside += target().before_cut(module, deploy.options)
        parts = partition(module, deploy.device)
        parts, left = give_cpu_parts(module, deploy, parts)
        notes = (*moved, *lost_sharing(module, deploy.device), *beside, *left)
        return replace(parts, notes=notes, fallen=tuple(fallen))
    return PartGraph([Part(f"{module.name}.{deploy.device}0", deploy.device, dict(module.graphs))])


def planned_memory(deploy: Deploy, parts: Sequence[Part]) -> MemoryPlan:
    """Where the values of a deploy's parts lie while they run, with what their engines take inside ops."""
    from ..memory.memory_plan import plan_memory

    emits = {part.name: cls for cls, own in parts_by_target(deploy, parts).items() for part in own}
    options = {cls: deploy.options if cls.name == deploy.target else cls.Options() for cls in emits.values()}

    def workspace(part: Part, node: ir.Node) -> int:
        cls = emits[part.name]
        return cls().workspace(node, options[cls])

    return plan_memory(parts, workspace)


def parts_by_target(deploy: Deploy, parts: Sequence[Part]) -> dict[type[Target], list[Part]]:
    """The target that emits each part: that of its device (`registry.part_target`)."""
    from ..registry import find_target, part_target

    found: dict[type[Target], list[Part]] = {}
    for part in parts:
        cls = find_target(part.target) if part.target else part_target(deploy.target, part.device)
        found.setdefault(cls, []).append(part)
    return found


def _emit(
    module: Module, cut: PartGraph, plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions
) -> Emission:
    """Emit the parts of each target, or take the files from the cache where they are kept; a plain graph's are proven
    together.
    """
    from .prove_chain import prove_chain

    emission = _emit_each(module, cut.parts, plan, deploy, directory, options)
    if module.arch is None and options.prove and not emission.proof:
        emission.proof = prove_chain(module, cut, emission, directory, deploy.target, options.progress)
    return emission


def _emit_each(
    module: Module, parts: list[Part], plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions
) -> Emission:
    from ..emit.target import Emission
    from ..files.noted_digest import is_known
    from ..registry import find_target
    from .kept_emission import kept_emission

    (directory / deploy.model).mkdir(parents=True, exist_ok=True)
    files = plan.models[deploy.model].source.files
    new = any(path.is_file() and not is_known(path) for path in files)  # what is kept was hashed once
    key = None if new else _kept_key(plan, deploy, parts, options)
    if key is not None and options.ready is not None:
        options.ready(deploy.model, "files")
    if key is not None and (kept := kept_emission(key, directory / deploy.model)) is not None:
        options.progress(f"{deploy.model}: its files are in the cache")
        return kept
    whole = Emission(engine=find_target(deploy.target).engine, parts={})
    for cls, own in parts_by_target(deploy, parts).items():
        emitted = cls().emit(_job(cls, own, module, plan, deploy, directory, options))
        whole.parts.update(emitted.parts)
        whole.libraries += [row for row in emitted.libraries if row not in whole.libraries]
        whole.notes += emitted.notes
        whole.stored.update(emitted.stored)
        whole.sparse += emitted.sparse
        whole.layout |= emitted.layout
        whole.units += [{"target": cls.name, **facts} for facts in emitted.units]
        _lay_out_cache(whole, emitted)
        if cls.name == deploy.target:
            whole.engine = emitted.engine
    return whole


def _job(
    cls: type[Target],
    parts: list[Part],
    module: Module,
    plan: Plan,
    deploy: Deploy,
    directory: Path,
    options: CompileOptions,
) -> EmitJob:
    """What a target is handed of a deploy line."""
    from ..emit.target import EmitJob
    from .tokenizer_folders import tokenizer_folders

    lowered = [] if options.lowered is None else options.lowered(plan, deploy)
    return EmitJob(
        module=module,
        parts=parts,
        directory=directory,
        folder=deploy.model,
        device=plan.devices[0],
        devices=plan.devices,
        slower=cls.slower,
        jobs=options.jobs,
        keep=options.emission_key is not None,
        tokenizer_source=plan.models[deploy.model].source.tokenizer_folder,
        tokenizer_folder=tokenizer_folders(plan).get(deploy.model),
        options=deploy.options if cls.name == deploy.target else cls.Options(),
        beside=cls.name != deploy.target,
        origin=deploy.span,
        progress=options.progress,
        prove=options.prove,
        lowered=[facts for facts in lowered if facts["target"] == cls.name],
        ready=(lambda: None) if options.ready is None else functools.partial(options.ready, deploy.model, "files"),
    )


def _lay_out_cache(whole: Emission, emitted: Emission) -> None:
    """The model's K/V layout is that of the first target whose parts hold a cache; others say theirs part by part."""
    holders = [
        part
        for part in emitted.parts.values()
        if any(kv_names.is_cache(spec["name"]) for graph in part["graphs"].values() for spec in graph["inputs"])
    ]
    if holders or emitted.engine != "chain":  # an engine of whole models keeps its own cache
        whole.kv = whole.kv or emitted.kv
    for part in holders:
        if emitted.kv != whole.kv:
            part["kv"] = emitted.kv
