"""A compile that does its actions in its own process, one after the other: what they left is noted all the same."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..compile.kept_emission import KIND as EMISSION
from ..files import cache
from . import records
from .action import Action
from .facts import deploy_facts
from .plan_graph import emission_key, unit_of
from .records import Output, Result

if TYPE_CHECKING:
    from ..compile.compile_model import CompiledModel
    from ..plan.plan import Plan


def keep_compiled(plan: Plan, model: CompiledModel) -> None:
    """Note the results of one deploy line that was compiled here; nothing where the cache cannot be written."""
    deploy = model.deploy
    with contextlib.suppress(OSError):
        if cache.find(EMISSION, emission_key(plan, deploy)) is not None:
            made = Result(outputs=[Output(EMISSION, emission_key(plan, deploy))])
            _keep(Action("emit", deploy.model, deploy_facts(plan, deploy)), made, plan)
        units = model.emission.units
        if not units:
            return
        lowered = Action("lower", deploy.model, deploy_facts(plan, deploy))
        _keep(lowered, Result(facts={"units": units}), plan)
        for number, facts in enumerate(units):
            action = Action("compile", str(facts["name"]), unit_of(lowered.key, number))
            kind, entry = facts["output"]
            _keep(action, Result(outputs=[Output(kind, entry)]), plan)


def _keep(action: Action, made: Result, plan: Plan) -> None:
    if records.known(action.key) is None:
        records.keep(action, made)
    records.remember_facts(str(plan.path), action)
