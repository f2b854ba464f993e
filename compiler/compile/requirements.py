"""What a plan's `evaluation` and `require` ask of a compile: perplexities, sizes, and whether each line holds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import Diagnostic, Label
from ..plan.measure import subject_of
from ..registry import find_target, measures
from .compile_model import CompiledModel
from .model_steps import load_model
from .options import Progress

if TYPE_CHECKING:
    from ..ir.module import Module
    from ..plan.measure import Finished
    from ..plan.plan import Plan
    from .engine_perplexity import Judged

_TOO_MUCH = 1.01  # of the module's perplexity: an engine that has a choice takes its exact mode
_NOTED = 1.005  # of the module's perplexity: what an engine's mode costs above it is told


@dataclass
class Measured:
    """What `evaluation` and `require` asked for.

    `perplexity`: of each model as it ships, `judged`: by whom; `module`: of the compressed module; `baseline`: of the
    float model; `whole`: of the compressed module if no input of a linear were cut, where some are.
    """

    perplexity: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    requires: list[dict[str, Any]] = field(default_factory=list)
    module: dict[str, float] = field(default_factory=dict)
    judged: dict[str, Judged] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)


def measure_models(plan: Plan, models: Sequence[CompiledModel], directory: Path, progress: Progress) -> Measured:
    """Perplexity of each language model on the plan's `evaluation` text: float, compressed, and as it ships."""
    measured = Measured()
    if plan.evaluation is None or all(model.compressed.arch is None for model in models):
        return measured
    from ..bundle.manifest import Manifest
    from ..ir.active_channels import without_cut
    from ..oracle.text_perplexity import WINDOW, check_windows, module_perplexity, read_text, token_ids
    from .engine_perplexity import judge
    from .manifest_content import assemble

    text, windows = plan.evaluation.text, plan.evaluation.windows
    files = {path.relative_to(directory).as_posix(): {} for path in directory.rglob("*") if path.is_file()}
    unsealed = Manifest(directory, {**assemble(plan, models, measured, directory), "files": files})
    for model in models:
        folder = model.compressed.tokenizer_folder
        if model.compressed.arch is None or folder is None:
            continue
        progress(f"{model.name}: perplexity over {windows} windows")
        ids = token_ids(folder, read_text(text))
        check_windows(ids, windows, plan.evaluation.span)
        measured.baseline[model.name] = module_perplexity(
            load_model(model.decl), text, windows, model.decl.source.files
        )

        def module(count: int, compressed: Module = model.compressed) -> float:
            return module_perplexity(compressed, text, count)

        known = functools.cache(module)
        target = find_target(model.deploy.target)
        mode = target().mode(model.deploy.options)
        nominal = WINDOW * target.seconds_per_weight * sum(n * k for n, k in model.compressed.arch.linears().values())
        most = min(windows, int(plan.evaluation.engine_time / nominal))
        if most:
            progress(f"{model.name}: perplexity over {most} windows on {mode}")
        value, judged = judge(unsealed, model.name, mode, ids, windows, most, known)
        exact = None
        if judged.cost is not None and judged.cost > _TOO_MUCH:
            exact = target().exact_instead(directory / model.name, model.deploy.options, model.emission.parts)
        if exact is not None:
            model.emission.notes.append(
                f"{mode} would cost {100 * (judged.cost or 0) - 100:.1f} %: it ships for {exact}"
            )
            value, judged = judge(unsealed, model.name, exact, ids, windows, most, known)
        measured.perplexity[model.name], measured.judged[model.name] = value, judged
        measured.module[model.name] = known(windows)
        if (whole := without_cut(model.compressed)) is not None:
            progress(f"{model.name}: perplexity with whole inputs")
            value = measured.whole[model.name] = module_perplexity(whole, text, windows)
            ratio = measured.module[model.name] / value
            model.emission.notes.append(f"cut inputs cost {100 * (ratio - 1):.2f} % on the evaluation text")
        if judged.cost is not None and judged.cost > _NOTED:
            cost = f"{100 * (judged.cost - 1):.1f} % on the evaluation text"
            model.emission.notes.append(f"{mode} costs {cost}, over what the module's own numbers give")
    return measured


def check_requirements(plan: Plan, finished: Finished, measured: Measured) -> list[Diagnostic]:
    """Record every `require` line in `measured` and return those that do not hold."""
    broken = []
    for line in plan.requires:
        name, of = subject_of(line.subject, measures())
        measure = measures()[name]()
        value, base = measure.value(finished, of if measure.of == "model" else None)
        holds, text = line.holds(value, base), measure.describe(value, base)
        if (judged := measured.judged.get(of or "")) is not None and measure.needs_evaluation:
            text += f"; {judged}"
        row = {"line": line.text, "measured": value, "baseline": base, "holds": holds, "text": text}
        row |= {"subject": line.subject, "op": line.op, "bound": line.value, "relative": line.relative_to_baseline}
        measured.requires.append(row)
        if not holds:
            broken.append(Diagnostic("E0950", f"`{line.text}` does not hold: measured {text}", Label(line.span)))
    return broken
