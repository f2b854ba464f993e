"""What edgec does with a plan: read it, check it, estimate, compile.

    plan.edge --dsl--> Plan --compile--> models --assemble--> manifest.json

Only this module and `cli.py` know the other packages; passes and targets arrive through the registry. Nothing is
measured that was not asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .assemble.compile_result import BrokenRequirement, CompileResult
from .compile.options import CompileOptions, Progress
from .diagnostics.diagnostic import Diagnostic, EdgecError, PlanError, framed_in
from .diagnostics.warn import collected
from .files.cache import make_root
from .plan.accepted_warnings import found_later, with_warnings

if TYPE_CHECKING:
    from .actions.action import Action
    from .actions.several import Ran
    from .compile.estimate_plan import Estimate as Estimate
    from .compile.profile import Profiled as Profiled
    from .compile.prove import Proven as Proven
    from .plan.plan import Plan

__all__ = [
    "BrokenRequirement",
    "CompileOptions",
    "CompileResult",
    "by_actions",
    "check_plan",
    "compile_plan",
    "compile_plans",
    "load_plan",
]


def load_plan(path: Path, defines: Sequence[str] = ()) -> Plan:
    """Read and check a plan; raises PlanError with every mistake in it."""
    from ..dsl import load_plan as load

    with collected() as told:
        plan = load(path, list(defines))
    return with_warnings(plan, told)


def read_plan_text(stream: BinaryIO, name: str) -> str:
    """The text of a plan from an open file, shown as `name` in errors; PlanError if it is none."""
    from ..dsl.plan_text import decode_plan

    return decode_plan(stream, name)


def sweep_axes(
    path: Path, defines: Sequence[str], with_tuned: bool = False
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """What lists behind `-D` vary, name -> values as written, and the definitions that hold at every point.

    Without a list, and `with_tuned` beside the lists, the plan's `tune(…)` lets vary. PlanError for a name that is no
    `let`, values of another kind, an empty list.
    """
    from ..dsl.axes import read_axes

    return read_axes(path, list(defines), with_tuned)


def chosen_text(
    path: Path, values: Mapping[str, str], output: Path, why: str, offered: Mapping[str, Sequence[str]]
) -> str:
    """The text of the plan at `path` with these values of its lets, as it is to be written to `output`."""
    from ..dsl.chosen import chosen_text as text

    return text(path, values, output, why, offered)


def check_plan(
    path: Path,
    defines: Sequence[str] = (),
    text: str | None = None,
    fast: bool = False,
    progress: Progress = lambda _text: None,
    prove: bool = True,
    goal: str | None = None,
) -> tuple[Plan | None, list[Diagnostic], dict[str, str]]:
    """The plan (None if it has errors), all diagnostics, and file -> text for code frames.

    `text` is checked as if it were the content of `path`. Unless `fast`, what the targets would refuse is among the
    errors, found by a dry run of the compile; `progress` is told which graphs that looks at. What no table holds is a
    note that says how much would be run; with `prove` off it is among the errors. `goal` replaces the plan's own.
    """
    from ..dsl import check_file

    with collected() as told:
        plan, diagnostics, sources = check_file(path, defines, text, goal)
    plan = plan and with_warnings(plan, told)
    if plan is None or fast or not plan.devices:
        return plan, diagnostics, sources
    from .compile.dry_run import refuse_early
    from .runtime.check_texts import check_texts

    with collected() as told:
        findings = refuse_early(plan, progress, look=prove)
        wrong, warnings = check_texts(plan)
    at_models = {(one.code, one.message) for one in wrong}  # a target may find the same at its deploy line
    elsewhere = [one for one in findings.refused if (one.code, one.message) not in at_models]
    refused, notes = list(dict.fromkeys((*elsewhere, *wrong))), []
    warnings = found_later(plan, [*warnings, *findings.warnings])
    plan = with_warnings(plan, [*warnings, *told])
    if findings.lowered and not refused:
        from .compile.prove import lowered

        notes += lowered(plan, findings)
    if findings.left:
        from .compile.prove import outlook, unproven

        refused += [] if prove else unproven(findings)
        notes += outlook(plan, findings) if prove else []
    return None if refused else plan, [*diagnostics, *warnings, *refused, *notes], sources


def prove_plan(plan: Plan, progress: Progress = lambda _text: None) -> list[Proven]:
    """Run what no table holds of `plan`, and nothing else; PlanError with what is wrong or refused anyway."""
    from .compile.prove import settle

    with framed_in(plan.sources):
        make_root()
        return settle(plan, True, progress)


def estimate_plan(plan: Plan, progress: Progress = lambda _text: None, memory: int | None = None) -> Estimate:
    """What the bundle will do on its device and what the compile takes; E0962 if that is above `memory` bytes."""
    from .assemble.request import check_request
    from .compile.estimate_plan import estimate_plan as estimate
    from .compile.estimate_plan import within_memory

    with framed_in(plan.sources):
        check_request(plan, CompileOptions())
        made = estimate(plan, progress)
        within_memory(plan, made, memory)
        return made


def judge_modules(
    plan: Plan, windows: int, progress: Progress = lambda _text: None, only: Collection[str] | None = None
) -> dict[str, tuple[float, float]]:
    """Model -> perplexity of its module and of the float model over `windows` windows; no engine is run."""
    from .compile.module_quality import module_quality

    with framed_in(plan.sources):
        make_root()
        return module_quality(plan, windows, progress, only)


def profile_plan(plan: Plan, progress: Progress = lambda _text: None) -> list[Profiled]:
    """What the passes of `plan` measure of its models, and nothing else; PlanError with what is wrong or refused."""
    from .compile.profile import profiles
    from .compile.prove import settle

    with framed_in(plan.sources):
        make_root()
        settle(plan, True, progress)
        return profiles(plan, progress)


def compile_plan(plan: Plan, output: Path | None = None, options: CompileOptions | None = None) -> CompileResult:
    """Compile `plan` into the folder `output` (default `build/<plan name>`).

    Raises PlanError, EngineError, or BrokenRequirement when a `require` line does not hold: the finished bundle is
    then kept as `<name>.rejected`, and what stood at `output` is untouched.
    """
    from .assemble.assemble_bundle import assembled
    from .assemble.request import check_request, measured_k

    options = options or CompileOptions()
    if options.actions or options.on is not None:
        made = compile_plans([(plan, output)], options)[0]
        if isinstance(made, EdgecError):
            raise made
        return made
    check_request(plan, options)
    return assembled(measured_k(plan, options), output, options)


def compile_plans(
    requests: Sequence[tuple[Plan, Path | None]], options: CompileOptions | None = None
) -> list[CompileResult | EdgecError]:
    """Compile several plans as one graph of actions, see `assemble/by_actions.py`: a result, or an error, each."""
    from .assemble.by_actions import compile_plans as compiled

    return compiled(requests, options)


def by_actions(
    jobs: int = 1,
    memory: int | None = None,
    on: str | None = None,
    store: str | None = None,
    keep_going: bool = False,
    progress: Progress = lambda _text: None,
) -> CompileOptions:
    """The options with which actions have processes of their own wherever one of these asks for it."""
    asked = jobs > 1 or memory is not None or store is not None or on is not None
    if store is not None:
        from .actions.store import absolute

        store = absolute(store)
    return CompileOptions(
        jobs=jobs, memory=memory, actions=asked, keep_going=keep_going, on=on, store=store, progress=progress
    )


def keeping(options: CompileOptions) -> CompileOptions:
    """The options with which a compile keeps what it makes in the cache, and takes from there what was kept."""
    from .assemble.by_actions import keeping as kept

    return kept(options)


def verify_bundle(
    bundle: Path | str,
    text: Path | str | None = None,
    windows: int = 32,
    sources: Mapping[str, str] | None = None,
    device: str | None = None,
    options: CompileOptions | None = None,
) -> dict[str, Any]:
    """What `verify/verify_bundle.py` finds of a bundle; with `options.actions` its parts are looked into as actions."""
    from .verify.verify_bundle import verify_bundle as verify

    if options is None or not options.actions:
        return verify(bundle, text, windows, sources, device)
    from .actions.verify_parts import check_parts
    from .assemble.by_actions import ACTION_WORKER

    make_root()
    return verify(
        bundle, text, windows, sources, device, lambda manifest: check_parts(manifest, options, ACTION_WORKER)
    )


def action_graph(plan: Plan, options: CompileOptions) -> Ran:
    """The actions of a plan without running one; PlanError with what the plan is refused for."""
    from .actions.several import plan_graph
    from .assemble.request import check_request, measured_k

    check_request(plan, options)
    ran = plan_graph([measured_k(plan, options)], options)
    if isinstance(ran.plans[0], EdgecError):
        raise ran.plans[0]
    return ran


def unchanged(plan: Plan, output: Path | None) -> dict[str, Any] | None:
    """What was said of the bundle at `output` when it was made, if it was made from all that the plan reads now and
    every file of it is as it was; None if it has to be made.
    """
    from .actions.whole_bundle import kept_facts
    from .assemble.assemble_bundle import bundle_path

    return None if any(line.auto for line in plan.speculates) else kept_facts(plan, bundle_path(plan, output))


def remember_bundle(plan: Plan, result: CompileResult, facts: dict[str, Any]) -> None:
    """Keep what is said of a finished bundle for `unchanged`."""
    from .actions.whole_bundle import keep_facts

    keep_facts(plan, result.bundle, facts)


def load_request(action: Action) -> Plan:
    """The plan of an action, as who planned it has it; PlanError with what is wrong."""
    from .assemble.request import measured_k

    asked = action.request
    plan, diagnostics, sources = check_plan(Path(asked["plan"]), asked["defines"], asked["text"], fast=True)
    if plan is None:
        raise PlanError(*(one for one in diagnostics if one.severity == "error"), sources=sources)
    return measured_k(plan, CompileOptions())
