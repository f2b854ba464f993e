"""What a plan's `evaluation` and `require` ask of a compile: perplexities, sizes, and whether each line holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import Diagnostic, Label
from .compile_model import CompiledModel, Progress, load_model

if TYPE_CHECKING:
    from ..plan.plan import Plan, Require


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


def check_requirements(plan: Plan, size: int, measured: Measured) -> list[Diagnostic]:
    """Record every `require` line in `measured` and return those that do not hold; `size` is the bundle's in bytes."""
    broken = []
    for line in plan.requires:
        value, base = _subject(line, size, measured)
        holds = line.holds(value, base)
        measured.requires.append({"line": line.text, "measured": value, "baseline": base, "holds": holds})
        if not holds:
            broken.append(_broken(line, value, base))
    return broken


def _subject(line: Require, size: int, measured: Measured) -> tuple[float, float]:
    if line.subject == "bundle.size":
        return float(size), 1.0
    model = line.subject.partition(".")[0]
    return measured.perplexity[model], measured.baseline[model]


def _broken(line: Require, value: float, base: float) -> Diagnostic:
    if line.relative_to_baseline:
        result = f"measured {value:.4f}, which is {value / base:.4f} * baseline ({base:.4f})"
    elif line.subject == "bundle.size":
        result = f"measured {value:.0f} bytes ({value / 1e6:.2f} MB)"
    else:
        result = f"measured {value:.4f}"
    return Diagnostic("E0950", f"`{line.text}` does not hold: {result}", Label(line.span))
