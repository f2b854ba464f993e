"""Plans compiled as one graph of actions; their bundles are put together beside what still runs.

check ─▶ graph ─▶ a thread: run what has not run ──┬─▶ solved weights ─▶ lowered graphs ─▶ files
                  here: each plan's bundle, which waits for these  ◀─┘
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..actions.executor import Cancelled, Watch
from ..actions.finished import NotRun
from ..actions.plan_graph import emission_key, lowered_units
from ..actions.preloaded import preloaded
from ..actions.several import Ran, blamed, plan_graph, room_beside, run_plans
from ..compile.estimate_plan import refuse_by_estimate
from ..compile.options import CompileOptions
from ..diagnostics.diagnostic import EdgecError
from .assemble_bundle import assembled
from .compile_result import CompileResult
from .request import check_request, measured_k

if TYPE_CHECKING:
    from ..actions.preloaded import ForkServer
    from ..plan.plan import Plan

ACTION_WORKER = "edgec.compiler.commands.action_worker"


def compile_plans(
    requests: Sequence[tuple[Plan, Path | None]], options: CompileOptions | None = None
) -> list[CompileResult | EdgecError]:
    """Compile several plans as one graph of actions: what they share runs once. A result, or why there is none, each.

    `options.jobs` actions run at a time, within `options.memory` bytes, each in a process of its own; with
    `options.on` they run on a scheduler elsewhere. The bundles are put together one after the other, as what they need
    is there. Without `options.keep_going` no action starts after a failure.
    """
    options = options or CompileOptions()
    here = preloaded(ACTION_WORKER, [plan for plan, _ in requests]) if options.on is None else contextlib.nullcontext()
    made: list[CompileResult | EdgecError | None] = []
    with here as server:  # first of all: it imports while this process does
        options = keeping(options)
        ran = plan_graph(_checked([plan for plan, _ in requests], options), options)
        with _running(ran, options, server) as watch:
            for number, (_, output) in enumerate(requests):
                made.append(_bundle(ran, number, output, options, watch))
            if None not in made and not options.keep_going:
                watch.cancelled.set()
    plans = [plan for plan, _ in requests]
    return [one or _why(ran, number, plan) for number, (one, plan) in enumerate(zip(made, plans, strict=True))]


def keeping(options: CompileOptions) -> CompileOptions:
    """The options with which a compile keeps what it makes in the cache, and takes from there what was kept."""
    return dataclasses.replace(options, emission_key=emission_key, lowered=lowered_units)


def _checked(plans: Sequence[Plan], options: CompileOptions) -> list[Plan | EdgecError]:
    checked: list[Plan | EdgecError] = []
    for plan in plans:
        try:
            check_request(plan, options)
            checked.append(measured_k(plan, options))
            refuse_by_estimate(plan, None, options.progress)  # whether each action fits is known of its graph
        except EdgecError as error:
            checked.append(error)
    return checked


@contextlib.contextmanager
def _running(ran: Ran, options: CompileOptions, server: ForkServer | None) -> Iterator[Watch]:
    """For the block, the graph runs in a thread; before it, where bundles are not put together beside actions.

    Leaving the block waits for the end of what runs, unless it was cancelled; what ended the graph is raised there.
    """
    watch = Watch(ran.outcome)
    if len(ran.graph) == 0 or (own := room_beside(ran, options)) is None:
        run_plans(ran, options, ACTION_WORKER, server, watch)
        watch.finished.close()
        yield watch
        return
    watch.own = own
    ended: list[BaseException] = []

    def run() -> None:
        try:
            run_plans(ran, options, ACTION_WORKER, server, watch)
        except Cancelled:
            pass
        except BaseException as error:  # whatever it is, it belongs to who waits
            ended.append(error)
        finally:
            watch.finished.close()

    thread = threading.Thread(target=run, name="actions", daemon=True)
    thread.start()
    try:
        watch.finished.wait_begun()
        if not ended:  # a scheduler that is not there is told before a model is loaded
            yield watch
    except BaseException:
        watch.cancelled.set()
        thread.join()
        raise
    thread.join()
    if ended:
        raise ended[0]


def _bundle(
    ran: Ran, number: int, output: Path | None, options: CompileOptions, watch: Watch
) -> CompileResult | EdgecError | None:
    """The bundle of a plan, or the error it failed with; None where an action that it needs has not run."""
    plan = ran.plans[number]
    if isinstance(plan, EdgecError):
        return plan
    ready = functools.partial(_wait, ran, number, watch)
    alone = dataclasses.replace(options, jobs=1, memory=None, ready=ready)
    try:
        if number not in ran.settled:  # what is to be proven first is an action
            watch.finished.wait([key for key, owners in ran.owners.items() if number in owners])
        return assembled(plan, output, alone, ran, ran.settled.get(number))
    except NotRun:
        return None
    except EdgecError as error:
        return error


def _wait(ran: Ran, number: int, watch: Watch, model: str, stage: str) -> None:
    watch.finished.wait(ran.stages[number][model].keys(stage))


def _why(ran: Ran, number: int, plan: Plan) -> EdgecError:
    held = ran.plans[number]
    return held if isinstance(held, EdgecError) else blamed(ran, number, plan)
