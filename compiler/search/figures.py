"""The figures of a point: of a finished bundle, or of an estimate where nothing was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..plan.measure import Finished, subject_of
from ..registry import measures
from .point import Figures

if TYPE_CHECKING:
    from ..driver import CompileResult, Estimate
    from ..plan.plan import Plan


def finished_figures(plan: Plan, result: CompileResult, directory: Path) -> Figures:
    """Of a bundle, whose files still lie in `directory`."""
    measured, estimate = result.measured, result.manifest["estimate"]
    size = sum(row["size"] for name, row in result.manifest["files"].items() if name != "report.html")
    finished = Finished(directory, result.manifest, size, measured.perplexity, measured.baseline)
    main = main_model(plan)
    by_text = main in measured.perplexity
    if by_text:
        quality = measured.perplexity[main] / measured.baseline[main]
    else:
        errors = next((model.weight_errors for model in result.models if model.name == main), {})
        quality = fmean(errors.values()) if errors else None
    return Figures(
        size=float(size),
        quality=quality,
        by_text=by_text,
        decode=estimate["decode_rate"],
        prefill=estimate["prefill_rate"],
        memory=float(sum(row["peak"] for row in result.manifest["memory"].values())),
        measures=_measures(asked(plan), finished),
    )


def estimated_figures(plan: Plan, made: Estimate) -> Figures:
    """Of a plan that is not compiled: its rates and memory, the bytes of its weights as its size."""
    manifest = {"estimate": {"decode_rate": made.decode, "prefill_rate": made.prefill}, "memory": made.memory}
    size = float(sum(entry["weights"] for entry in made.memory.values()))
    device = [subject for subject in asked(plan) if subject_of(subject, measures())[1] is None]
    finished = Finished(plan.path.parent, manifest, round(size), {}, {})
    return Figures(
        size=size,
        decode=made.decode,
        prefill=made.prefill,
        memory=float(sum(entry["peak"] for entry in made.memory.values())),
        measures=_measures(device, finished),
    )


def asked(plan: Plan) -> list[str]:
    """What the plan's requirements and its goal name, each once."""
    subjects = [line.subject for line in plan.requires]
    return list(dict.fromkeys([*subjects, *([plan.goal.subject] if plan.goal is not None else [])]))


def main_model(plan: Plan) -> str:
    """The model whose text ships: the target of the speculation, else the first language model, else the first."""
    if plan.speculates:
        return plan.speculates[0].target
    decoders = [one.model for one in plan.deploys if plan.models[one.model].arch is not None]
    return (decoders or [one.model for one in plan.deploys])[0]


def _measures(subjects: Iterable[str], finished: Finished) -> Mapping[str, Any]:
    found = {}
    for subject in subjects:
        name, owner = subject_of(subject, measures())
        measure = measures()[name]()
        found[subject] = measure.value(finished, owner if measure.of == "model" else None)[0]
    return found
