"""The profiles that the passes of a plan measure: a pipeline up to the last such pass, and nothing emitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import blamed_on, fail
from ..pipeline.pass_interface import StepResult
from .model_steps import load_model, run_steps
from .options import CompileOptions

if TYPE_CHECKING:
    from ..plan.plan import Plan


@dataclass(frozen=True)
class Profiled:
    """What a step measured of a model: `result` has its tables and notes, `text` is the file."""

    model: str
    result: StepResult
    text: str


def profiled(plan: Plan) -> list[str]:
    """The model of each step that measures a profile, known before anything is; E0960 if none does."""
    found = [deploy.model for deploy in plan.deploys for step in plan.steps(deploy) if step.pass_.profiles]
    if not found:
        fail("E0960", "no pass of this plan measures a profile", help="`shadow` does: `edgec passes shadow`")
    return found


def profiles(plan: Plan, progress: Callable[[str], None]) -> list[Profiled]:
    """All profiles of a plan, in the order of its deploy lines; E0960 if none of its passes measures one."""
    profiled(plan)
    found = []
    for deploy in plan.deploys:
        steps = plan.steps(deploy)
        last = max((at for at, step in enumerate(steps) if step.pass_.profiles), default=-1)
        if last < 0:
            continue
        with blamed_on(deploy.span):
            module = load_model(plan.models[deploy.model])
            options = CompileOptions(progress=progress, profiling=True)
            results = run_steps(module, steps[: last + 1], plan, deploy, options)
        found += [Profiled(deploy.model, one, one.profile) for one in results if one.profile is not None]
    return found
