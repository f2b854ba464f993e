"""One deploy line, from its source to emitted files.

    load -> steps on weights -> compressed -> steps that place and shape -> parts -> the targets' files

Perplexity is that of `compressed`: what follows changes where and in which shapes the model runs. A later pass that
changes what it computes runs on `compressed` as well (`pipeline/measured_steps.py`).
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import blamed_on
from ..diagnostics.wording import of_all_layers
from .cut_module import cut_module, parts_by_target, placed_by, planned_memory
from .emit_model import emit_job, emitted
from .model_steps import load_model, run_steps

if TYPE_CHECKING:
    from ..emit.target import Emission
    from ..files.digests import Digests
    from ..ir.module import Module
    from ..memory.memory_plan import MemoryPlan
    from ..partition.parts import PartGraph
    from ..pipeline.pass_interface import StepResult
    from ..plan.plan import Deploy, ModelDecl, Plan
    from .options import CompileOptions


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
    cut, emission, fallen = emitted(done.module, plan, deploy, directory, waiting)
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
                job = emit_job(cls, own, module, plan, deploy, folder, options)
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
        emitted(module, plan, deploy, directory, options, keep=True)


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
