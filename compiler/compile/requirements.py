"""What a plan's `evaluation` and `require` ask of a compile: perplexities, sizes, and whether each line holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import Diagnostic, Label
from ..registry import measures
from .compile_model import CompiledModel, Progress, load_model

if TYPE_CHECKING:
    from ..plan.measure import Finished
    from ..plan.plan import Plan


@dataclass
class Measured:
    """What `evaluation` and `require` asked for."""

    perplexity: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    requires: list[dict[str, Any]] = field(default_factory=list)


def measure_models(plan: Plan, models: Sequence[CompiledModel], progress: Progress) -> Measured:
    """Perplexity of each language model on the plan's `evaluation` text, compressed and float, in ONNX Runtime."""
    measured = Measured()
    if plan.evaluation is None:
        return measured
    from ..oracle.text_perplexity import module_perplexity

    for model in models:
        if model.compressed.arch is None:
            continue
        progress(f"{model.name}: perplexity over {plan.evaluation.windows} windows")
        text = plan.evaluation.text
        windows = plan.evaluation.windows
        files = model.decl.source.files
        measured.baseline[model.name] = module_perplexity(load_model(model.decl), text, windows, files)
        measured.perplexity[model.name] = module_perplexity(model.compressed, text, windows)
    return measured


def check_requirements(plan: Plan, finished: Finished, measured: Measured) -> list[Diagnostic]:
    """Record every `require` line in `measured` and return those that do not hold."""
    broken = []
    for line in plan.requires:
        of, _, name = line.subject.rpartition(".")
        measure = measures()[name]()
        value, base = measure.value(finished, of if measure.of == "model" else None)
        holds, text = line.holds(value, base), measure.describe(value, base)
        row = {"line": line.text, "measured": value, "baseline": base, "holds": holds, "text": text}
        measured.requires.append(row)
        if not holds:
            broken.append(Diagnostic("E0950", f"`{line.text}` does not hold: measured {text}", Label(line.span)))
    return broken
