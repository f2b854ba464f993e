"""Plans as one graph of actions, run here or on a scheduler elsewhere; what they share is in the graph once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..compile.compile_model import CompileOptions
from ..compile.dry_run import Findings, refuse_early
from ..compile.prove import unproven
from ..diagnostics.diagnostic import EdgecError, PlanError
from ..diagnostics.progress import Passing
from .action import Graph
from .elsewhere import fetch, run_elsewhere
from .executor import Outcome, Row, run_graph, within
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


def plan_graph(plans: Sequence[Plan | EdgecError], options: CompileOptions) -> Ran:
    """The graph of several plans; a plan that cannot be compiled becomes the error that says why."""
    ran = Ran(list(plans))
    for number, plan in enumerate(ran.plans):
        if isinstance(plan, EdgecError):
            continue
        try:
            own, findings = Graph(), _findings(plan, options)
            add_plan(own, plan, bool(findings.proofs))
        except EdgecError as error:
            error.sources = error.sources or plan.sources
            ran.plans[number] = error
            continue
        if not findings.proofs:
            ran.settled[number] = findings
        for key, action in own:
            ran.graph.add(action)
            ran.owners.setdefault(key, set()).add(number)
    return ran


def run_plans(
    plans: Sequence[Plan | EdgecError], options: CompileOptions, worker: str, server: ForkServer | None = None
) -> Ran:
    """Run everything the plans need; `worker`: the module of the process of an action (`commands/action_worker.py`),
    `server`: where such processes are forked from.

    A plan one of whose actions failed, or did not run because another failed, becomes the error in the result.
    """
    ran = plan_graph(plans, options)
    if len(ran.graph):
        name = " ".join(str(plan.path) for plan in ran.plans if not isinstance(plan, EdgecError))
        tell = telling(options.progress)
        if options.on is None:
            limits = Limits(options.jobs, options.memory)
            within(ran.graph, limits, resident(os.getpid()) + _OWN)
            if options.store is not None:
                open_store(options.store).check_writable()
                fetch(ran.graph, options.store)
            runner = LocalRunner(worker, options.store, server)
            ran.outcome = run_graph(ran.graph, runner, limits, tell, options.keep_going, name)
        else:
            ran.outcome = run_elsewhere(ran.graph, options, tell, name)
    _blame(ran, options)
    return ran


def _findings(plan: Plan, options: CompileOptions) -> Findings:
    """What a dry run finds, what has to be run that no table holds among it; PlanError with what is refused."""
    findings = refuse_early(plan, options.progress)
    told = [*findings.refused, *([] if options.prove else unproven(findings))]
    if told:
        raise PlanError(*dict.fromkeys(told))
    return findings


def _blame(ran: Ran, options: CompileOptions) -> None:
    """Give every plan that lacks an action the error that is to blame."""
    failed = ran.outcome.failed
    if not failed:
        return
    for number, plan in enumerate(ran.plans):
        if isinstance(plan, EdgecError):
            continue
        behind = ran.graph.behind(list(failed))
        own = {key: error for key, error in failed.items() if number in ran.owners[key]}
        lacks = [key for key in behind if number in ran.owners[key]]
        if own or lacks or not options.keep_going:
            error = Outcome(failed=own or failed).error(plan.sources)
            if error is not None:
                ran.plans[number] = error


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
