"""Do one action in this process: read what it needs from the cache, leave what it makes there, note the result.

What an action has read and made is its output: whoever has all of that in their cache need not run it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..compile.compile_model import emit_model, lower_model, solve_model
from ..compile.kept_emission import KIND as EMISSION
from ..compile.options import CompileOptions, Progress
from ..compile.profile import profiles
from ..compile.prove import settle
from ..diagnostics.diagnostic import EngineError, fail
from ..emit.child_process import peak_rss
from ..files import cache
from ..files.scratch import scratch_folder
from ..registry import find_target
from . import records
from .action import Action
from .facts import deploy_facts, solve_facts
from .plan_graph import emission_key
from .records import Output, Result

if TYPE_CHECKING:
    from ..plan.plan import Plan

Load = Callable[[Action], "Plan"]  # the plan of an action's request

# Notes about this machine, libraries built on it, and entries of whole bundles: no action's result hangs on them.
_OWN = frozenset(
    {"hashed", "own-code", "sources", "dry-run", "action", "action-last", "action-cost", "action-units", "action-begun"}
    | {"kernels", "packing", "rounding"}
)


def perform(action: Action, load: Load, progress: Progress = lambda _text: None) -> Result:
    """Run an action whose needs have run, and note what it left; a result that is known is returned as it is.

    EdgecError with what is wrong: a plan that is another one by now (E0971), what it needs is not in the cache
    (E0972), or what the action itself finds.
    """
    if (found := records.known(action.key)) is not None:
        return found
    started = time.perf_counter()
    made = Result()
    with cache.recorded() as seen:
        engine = _DO[action.kind](action, load, progress, made)
    made.seconds, made.peak = time.perf_counter() - started, float(peak_rss() + engine)
    given = {(one.kind, one.key) for one in made.outputs}
    made.outputs += [
        Output(kind, key, note) for kind, key, note in sorted(seen) if kind not in _OWN and (kind, key) not in given
    ]
    records.keep(action, made)
    return made


def unit_facts(action: Action) -> dict[str, object] | None:
    """What the lowering that a compile needs said of it; None where that has not run."""
    found = records.noted(str(action.facts["lowered"]))
    units = found.facts.get("units") if found is not None else None
    number = int(action.request["unit"])
    return units[number] if isinstance(units, list) and number < len(units) else None


def made_before(action: Action) -> Result | None:
    """The result of a compile whose binary is in the cache, made for another plan or by a compile that was cut off."""
    if action.kind != "compile" or (facts := unit_facts(action)) is None:
        return None
    kind, key = facts["output"]  # type: ignore[misc]
    if cache.find(kind, key) is None:
        return None
    made = Result(outputs=[Output(kind, key)])
    records.keep(action, made)
    return made


def _plan(action: Action, load: Load) -> Plan:
    plan = load(action)
    number = action.request.get("deploy", 0)
    if not 0 <= number < len(plan.deploys):
        _changed(action, "it has fewer deploy lines")
    deploy = plan.deploys[number]
    known = deploy_facts(plan, deploy) if action.kind in ("lower", "emit") else solve_facts(plan, deploy)
    differ = [word for word in known if word in action.facts and action.facts[word] != known[word]]
    if differ and action.kind not in ("prove", "profile"):
        _changed(action, f"other {', '.join(differ)}")
    return plan


def _changed(action: Action, what: str) -> None:
    path = action.request.get("plan", "")
    message = f"`{path}` is not the plan that `{action.label}` was made from here: {what}"
    help = "plan again (`edgec compile`); a worker needs the same edgec, engines and files as who planned"
    fail("E0971", message, help=help)


def _prove(action: Action, load: Load, progress: Progress, _made: Result) -> int:
    settle(_plan(action, load), True, progress)
    return 0


def _profile(action: Action, load: Load, progress: Progress, _made: Result) -> int:
    profiles(_plan(action, load), progress)
    return 0


def _solve(action: Action, load: Load, progress: Progress, _made: Result) -> int:
    plan = _plan(action, load)
    noting = records.noting(action, progress)  # a solve that is cut off goes on behind the last weight it solved
    solve_model(plan, plan.deploys[action.request["deploy"]], CompileOptions(progress=noting))
    return 0


def _lower(action: Action, load: Load, progress: Progress, made: Result) -> int:
    plan = _plan(action, load)
    deploy = plan.deploys[action.request["deploy"]]
    made.facts["units"] = lower_model(plan, deploy, CompileOptions(progress=progress))
    return 0


def _compile(action: Action, _load: Load, _progress: Progress, made: Result) -> int:
    facts = unit_facts(action)
    if facts is None:
        message = f"`{action.label}` needs what was lowered for it, which is not in the cache"
        help = "run the action it needs first, or share its store with `--store`"
        fail("E0972", message, help=help, kind=EngineError)
    target = find_target(str(facts["target"]))()
    _, peak = target.make_unit(facts)
    kind, key = facts["output"]  # type: ignore[misc]
    made.outputs.append(Output(kind, key))
    return peak


def _emit(action: Action, load: Load, progress: Progress, made: Result) -> int:
    plan = _plan(action, load)
    deploy = plan.deploys[action.request["deploy"]]
    key = emission_key(plan, deploy)
    if cache.find(EMISSION, key) is None:
        with scratch_folder("emit") as folder:
            emit_model(plan, deploy, folder, CompileOptions(progress=progress, emission_key=emission_key))
    if cache.find(EMISSION, key) is not None:  # with packed weights nothing is kept
        made.outputs.append(Output(EMISSION, key))
    return 0


def _verify(action: Action, _load: Load, _progress: Progress, made: Result) -> int:
    from .verify_parts import verify_part

    made.facts = verify_part(action)
    return 0


_DO: dict[str, Callable[[Action, Load, Progress, Result], int]] = {
    "prove": _prove,
    "profile": _profile,
    "solve": _solve,
    "lower": _lower,
    "compile": _compile,
    "emit": _emit,
    "verify": _verify,
}

__all__ = ["made_before", "perform", "unit_facts"]
