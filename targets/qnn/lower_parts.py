"""The parts of a job as graphs for HTP: by edgec's own rules where they cover a part, else as the provider lowers them.

part, bucket -> rules, every use known to be right        -> Lowered
             -> the provider's form, proven (`prove_engine`) -> Lowered, and what proved it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...compiler.diagnostics.diagnostic import PlanError
from ...compiler.diagnostics.wording import count
from ...compiler.emit.conformance.op_class import Use
from ...compiler.emit.conformance.proof import about, plan_trials, run_trials
from ...compiler.emit.engine_lowering import left_to_the_engine
from ...compiler.emit.refusals import grouped
from .check.graphs import refused_uses
from .htp.chip import Chip
from .lower.builder import WeightStore
from .lower.engine import as_it_stands
from .lower.integer_activations import NoRange, widest_scores
from .lower.lower_graphs import lower
from .lower.lowering import Lowered

if TYPE_CHECKING:
    from ...compiler.emit.part import Part
    from ...compiler.emit.target import EmitJob


def lower_parts(job: EmitJob, rows: int) -> tuple[dict[str, Lowered], dict[str, dict[str, Any]]]:
    """The target-level graph of every part and bucket by its name, weights made once for all; and what proved those
    that the engine lowers by itself.
    """
    store = WeightStore()
    graphs: dict[str, Lowered] = {}
    proven: dict[str, dict[str, Any]] = {}
    for index, part in enumerate(job.parts):
        names = {bucket: graph_name(job, index, bucket) for bucket in part.graphs}
        own = (
            None if job.module.arch is None and job.options.lowering == "engine" else _by_rules(job, part, store, rows)
        )
        if own is None:
            found = _by_the_engine(job, part, names)
            graphs |= {name: lowered for name, (lowered, _) in found.items()}
            proven |= {name: facts for name, (_, facts) in found.items()}
        else:
            graphs |= {names[bucket]: lowered for bucket, lowered in own.items()}
    return graphs, proven


def _by_rules(job: EmitJob, part: Part, store: WeightStore, rows: int) -> dict[str, Lowered] | None:
    """A part by edgec's own rules; None where they do not cover a general graph, or are not known to be right."""
    if job.module.arch is not None or job.options.lowering == "edgec" or not job.prove:
        span = widest_scores(model.graph for one in job.parts for model in one.graphs.values())
        return lower(part.graphs, store, rows, span)
    try:
        made = lower(part.graphs, store, rows)
        for value in (value for one in made.values() for value in one.model.graph.initializers.values()):
            if value.const_value is not None:
                value.const_value.numpy()  # what fp16 cannot hold is found when it is computed
    except (PlanError, NoRange):
        return None
    uses = [use for lowered in made.values() for use in lowered.uses]
    refused = (one for chip in job.chips for one in refused_uses(uses, Chip.of(chip).arch))
    if left_to_the_engine(job.options, list(refused)):
        return None
    try:
        for chip in job.chips:
            refuse_unproven(job, uses, Chip.of(chip), rows)
    except PlanError:  # nor does a run of the op by itself settle it: the engine's form of the whole graph is proven
        return None
    return made


def _by_the_engine(job: EmitJob, part: Part, names: Mapping[str, str]) -> dict[str, tuple[Lowered, dict[str, Any]]]:
    """The graphs of a part as they stand, by name, with what proved them on the first chip; NotTaken with nodes."""
    from .prove_engine import prove_engine

    chip = Chip.of(job.chips[0])
    found = {}
    for bucket, name in names.items():
        proven = prove_engine(job.module, part.graphs[bucket], chip, job.slower, job.progress)
        found[name] = (as_it_stands(part.graphs[bucket], name), proven.facts())
    return found


def refuse_unproven(job: EmitJob, uses: Sequence[Use], chip: Chip, rows: int) -> None:
    """PlanError with every use that is not known to be right; what only the solvers decided is run first."""
    refused = refused_uses(uses, chip.arch)
    if job.prove and (asked := [use for one in refused for use in one.unproven]):
        from .conformance.prove import HtpProver

        prover = HtpProver(chip, job.parts, rows)
        trials, _ = plan_trials(prover, asked)
        seconds = about(sum(trial.seconds for trial in trials))
        job.progress(f"{job.module.name}: proving {count(len(trials), 'form')} on {prover.engine}, about {seconds}")
        for one in run_trials(prover, trials, job.progress):
            job.progress(one.text)
        refused = refused_uses(uses, chip.arch)
    if refused:
        raise PlanError(*grouped(refused))


def graph_name(job: EmitJob, index: int, bucket: str) -> str:
    """What a bucket's graph of part `index` is called in its binary."""
    return bucket if len(job.parts) == 1 else f"p{index}_{bucket}"
