"""Before the solvers start: what no table holds of a plan is run, and what is wrong refuses the plan.

dry run -> nothing open | refusals | proofs -> runs of the engine -> rows of the local table -> dry run again
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import Diagnostic, EngineError, Label, PlanError
from ..emit.conformance.measure import UNENDED
from ..emit.conformance.proof import Proof, Proven, about, run_trials
from ..emit.conformance.table import RIGHT
from .dry_run import Findings, Progress, dry_run, refuse_early

if TYPE_CHECKING:
    from ..plan.plan import Plan

_WAY = "leave out `--no-prove`: what no table holds is run then"


def settle(
    plan: Plan,
    prove: bool,
    progress: Progress,
    wrong: Sequence[Diagnostic] = (),
    warnings: list[Diagnostic] | None = None,
    findings: Findings | None = None,
) -> list[Proven]:
    """Refuse what the targets do not take of `plan`, after what no table holds was run (`prove`) or without.

    `wrong` is what was found elsewhere: it is told with the rest, and then nothing is run. What may stand and should be
    known is added to `warnings`. `findings`: those of the plan, where they are known.
    """
    findings = findings or refuse_early(plan, progress)
    if warnings is not None:
        warnings += findings.warnings
    told = [*findings.refused, *wrong, *([] if prove else unproven(findings))]
    if told:
        raise PlanError(*dict.fromkeys(told))
    return prove_all(plan, findings, progress)


def unproven(findings: Findings) -> list[Diagnostic]:
    """The refusals of what no table holds, as they read where nothing may be run."""
    return [replace(one, help=f"{_WAY}; or {one.help}" if one.help else _WAY) for one in findings.unproven]


def outlook(plan: Plan, findings: Findings) -> Iterator[Diagnostic]:
    """What would be run, as notes: one for each deploy."""
    for number, text in findings.left:
        message = f"no table holds {text}: they are run when the plan is compiled"
        help = "`edgec prove PLAN` runs them now; their rows are kept for every later compile"
        yield Diagnostic("W0602", message, Label(plan.deploys[number].span), help=help, severity="note")


def lowered(plan: Plan, findings: Findings) -> Iterator[Diagnostic]:
    """What an engine lowers itself, as notes: one for each deploy and target."""
    for number, text in findings.lowered:
        message = f"{text}, and is proven while compiling"
        help = "a proof is about ten runs of the graph in the engine and in ONNX Runtime, and says how long it takes "
        help += "before it starts; `lowering = edgec` refuses what edgec's rules lack"
        yield Diagnostic("E0510", message, Label(plan.deploys[number].span), help=help, severity="note")


def prove_all(plan: Plan, findings: Findings, progress: Progress) -> list[Proven]:
    """Run what is open. PlanError with what came out wrong, EngineError if a run came to no end."""
    found: list[Proven] = []
    for proof in findings.proofs:
        found += _prove(proof, progress)
    unended = [one for one in found if one.row.verdict == UNENDED]
    if unended:
        names = ", ".join(f"`{one.trial.case.name}`" for one in unended)
        message = f"the engine came to no end with {names}: whether it is right is not known"
        raise EngineError(Diagnostic("E0641", message, help="`place (device = cpu)` on what needs it"))
    if found:
        again = dry_run(plan)
        if wrong := [*again.refused, *again.unproven]:
            raise PlanError(*wrong)
    return found


def _prove(proof: Proof, progress: Progress) -> list[Proven]:
    progress(f"proving {proof.outlook()}")
    started = time.perf_counter()
    found = []
    for one in run_trials(proof.prover, proof.trials, progress):
        found.append(one)
        if one.row.verdict != RIGHT or one.trial.part:
            progress(one.text)
    taken = about(time.perf_counter() - started)
    right = sum(one.row.verdict == RIGHT for one in found)
    progress(f"{right} of {len(found)} right, in {taken}; kept for later compiles")
    return found


__all__ = ["Proven", "outlook", "prove_all", "settle", "unproven"]
