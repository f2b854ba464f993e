"""Plans as one graph of actions, run here or on a scheduler elsewhere; what they share is in the graph once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..compile.dry_run import Findings, refuse_early
from ..compile.options import CompileOptions
from ..compile.prove import unproven
from ..diagnostics.diagnostic import EdgecError, PlanError, framed_in
from ..diagnostics.progress import Passing
from . import records
from .action import Graph
from .elsewhere import fetch, run_elsewhere, share
from .executor import Outcome, Row, Watch, run_graph, within
from .finished import Stages, stages_of
from .local import LocalRunner
from .plan_graph import add_plan
from .processes import resident
from .scheduler import Limits
from .store import open_store

if TYPE_CHECKING:
    from ..emit.fork_server import ForkServer
    from ..plan.plan import Plan

_OWN = 0.2e9  # bytes that this process gains while it waits


@dataclass
class Ran:
    """What ran for plans: each plan, or why it has none; the graph, and what it came to."""

    plans: list[Plan | EdgecError]
    graph: Graph = field(default_factory=Graph)
    outcome: Outcome = field(default_factory=Outcome)
    owners: dict[str, set[int]] = field(default_factory=dict)  # the plans that asked for each action
    settled: dict[int, Findings] = field(default_factory=dict)  # of plans of which nothing had to be run first
    stages: dict[int, dict[str, Stages]] = field(default_factory=dict)  # of each plan's models


def plan_graph(plans: Sequence[Plan | EdgecError], options: CompileOptions) -> Ran:
    """The graph of several plans; a plan that cannot be compiled becomes the error that says why."""
    ran = Ran(list(plans))
    for number, plan in enumerate(ran.plans):
        if isinstance(plan, EdgecError):
            continue
        try:
            with framed_in(plan.sources):
                own, findings = Graph(), _findings(plan, options)
                last = add_plan(own, plan, bool(findings.proofs))
        except EdgecError as error:
            ran.plans[number] = error
            continue
        if not findings.proofs:
            ran.settled[number] = findings
        ran.stages[number] = stages_of(own, last)
        for key, action in own:
            ran.graph.add(action)
            ran.owners.setdefault(key, set()).add(number)
    return ran


def run_plans(
    ran: Ran, options: CompileOptions, worker: str, server: ForkServer | None = None, watch: Watch | None = None
) -> None:
    """Run everything the plans need; `worker`: the module of the process of an action (`commands/action_worker.py`),
    `server`: where such processes are forked from.
    """
    if not len(ran.graph):
        return
    watch = watch or Watch(ran.outcome)
    name = " ".join(str(plan.path) for plan in ran.plans if not isinstance(plan, EdgecError))
    tell = telling(options.progress)
    if options.on is not None:
        run_elsewhere(ran.graph, options, tell, name, watch)
        return
    if options.store is not None:
        open_store(options.store).check_writable()
        share(ran.graph, options.store)
        fetch(ran.graph, options.store)
    runner = LocalRunner(worker, options.store, server)
    run_graph(ran.graph, runner, Limits(options.jobs, options.memory), tell, options.keep_going, name, watch)


def room_beside(ran: Ran, options: CompileOptions) -> float | None:
    """Bytes that this process comes to where bundles are put together beside the actions; None where they are put
    together behind them: in one job's time, with results in a store that only come back at the end, or where the
    largest action would not fit beside it. E0962 where one does not fit at all.
    """
    here = float(resident(os.getpid()))
    if options.on is None:
        within(ran.graph, Limits(options.jobs, options.memory), here + _OWN)
    if (options.jobs == 1 and options.on is None) or (options.on is not None and options.store is not None):
        return None
    load = max((records.corrected(one)[0] for _, one in ran.graph if one.kind in ("lower", "emit")), default=0.0)
    left = (records.corrected(action)[0] for key, action in ran.graph if records.known(key) is None)
    if options.on is None and options.memory is not None and here + load + max(left, default=0.0) > options.memory:
        return None
    return here + load


def _findings(plan: Plan, options: CompileOptions) -> Findings:
    """What a dry run finds, what has to be run that no table holds among it; PlanError with what is refused."""
    findings = refuse_early(plan, options.progress)
    told = [*findings.refused, *([] if options.prove else unproven(findings))]
    if told:
        raise PlanError(*dict.fromkeys(told))
    return findings


def blamed(ran: Ran, number: int, plan: Plan) -> EdgecError:
    """Why a plan lacks an action: one of its own that failed, or one of another plan, behind which nothing started."""
    failed = ran.outcome.failed
    own = {key: error for key, error in failed.items() if number in ran.owners[key]}
    error = Outcome(failed=own or failed).error(plan.sources)
    if error is None:
        raise RuntimeError("an action did not run, and none failed")
    return error


def telling(say: Callable[[str], None]) -> Callable[[str, Row, int, int], None]:
    """One display of a graph that runs: a line for each action that ended, between them what is at work."""
    running: list[str] = []

    def tell(event: str, row: Row, done: int, count: int) -> None:
        label = row.action.label
        if event == "start":
            running.append(label)
        else:
            running.remove(label)
            took = f"{row.end - row.start:.1f} s, {row.peak / 1e9:.2f} GB" if row.state == "ran" else row.state
            say(f"[{done}/{count}] {label}: {took}" + (f" ({row.why})" if row.state == "ran" and row.why else ""))
        if running:
            say(Passing(f"{done} of {count} actions done, at work: {', '.join(running)}"))

    return tell
