"""`edgec.check`, `edgec.load`, `edgec.compile`, `edgec.inspect`: the commands of the same names, called from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import Diagnostic, EdgecError, PlanError, render
from ..diagnostics.wording import count

if TYPE_CHECKING:
    from ..driver import CompileResult, Estimate, Proven
    from ..plan.plan import Plan

Defines = Mapping[str, object]


@dataclass(frozen=True, repr=False)
class CheckResult:
    """What `check` found. True as a condition if the plan can be compiled; iterating gives the diagnostics.

    plan         the checked plan, None if it has errors
    diagnostics  errors and warnings in the order of the text
    """

    plan: Plan | None
    diagnostics: tuple[Diagnostic, ...]
    sources: Mapping[str, str] = field(default_factory=dict)  # file -> text, for the lines shown with a diagnostic

    @property
    def ok(self) -> bool:
        """Whether the plan has no errors; it may have warnings."""
        return self.plan is not None

    @property
    def errors(self) -> list[Diagnostic]:
        """The diagnostics that keep the plan from being compiled."""
        return [one for one in self.diagnostics if one.severity == "error"]

    @property
    def warnings(self) -> list[Diagnostic]:
        """The other diagnostics."""
        return [one for one in self.diagnostics if one.severity != "error"]

    def raise_errors(self) -> Plan:
        """The plan; PlanError with all its errors if it has any."""
        if self.plan is None:
            raise PlanError(*self.errors, sources=self.sources)
        return self.plan

    def __bool__(self) -> bool:
        return self.ok

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self.diagnostics)

    def __str__(self) -> str:
        """The text that `edgec check` prints, with the lines of the plan."""
        return "\n\n".join(render(one, self.sources) for one in self.diagnostics) or "ok"

    def __repr__(self) -> str:
        codes = ", ".join(dict.fromkeys(one.code for one in self.diagnostics))
        counts = f"{count(len(self.errors), 'error')}, {count(len(self.warnings), 'warning')}"
        return f"<check: {counts}{f' ({codes})' if codes else ''}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def check(
    plan: str | Path,
    *,
    defines: Defines | None = None,
    folder: str | Path = ".",
    fast: bool = False,
    prove: bool = True,
) -> CheckResult:
    """Find the mistakes in a plan before any weight is read.

    plan     the path of a plan, or its text: a string with a line break is a text
    defines  values of `let` statements, as `edgec check -D name=value` gives them
    folder   of a text: the folder that its paths are relative to
    fast     leave out the dry run, which finds what the targets refuse
    prove    what no conformance table holds is a note, because a compile runs it; off: an error
    """
    from ..driver import check_plan

    path, text = _path_or_text(plan, folder)
    found, diagnostics, sources = check_plan(path, written_defines(defines), text, fast, prove=prove)
    return CheckResult(found, tuple(diagnostics), sources)


def load(plan: str | Path, *, defines: Defines | None = None, folder: str | Path = ".") -> Plan:
    """The checked plan; PlanError, whose `diagnostics` are all its mistakes. Arguments as for `check`."""
    return check(plan, defines=defines, folder=folder).raise_errors()


def compile(
    plan: str | Path | Plan,
    output: str | Path | None = None,
    *,
    defines: Defines | None = None,
    folder: str | Path = ".",
    jobs: int = 1,
    verify_each: bool = False,
    memory: int | None = None,
    keep_going: bool = False,
    on: str | None = None,
    store: str | None = None,
    prove: bool = True,
    progress: Callable[[str], None] | None = None,
) -> CompileResult:
    """Compile a plan into the folder `output`, by default `build/<name of the plan>`.

    plan         a path, a text, or what `load` returned (`defines` and `folder` are then as loaded)
    jobs         actions (docs/farm.md) that run at the same time, each in a process of its own
    verify_each  run every model before and after each pass and compare
    memory       bytes that they may take together
    keep_going   after an action has failed, run what does not need it
    on, store    a scheduler that runs them, and what its workers share: as `edgec compile --on --store` have them
    prove        run first what no conformance table holds; off: it is refused
    progress     called with a line of text at the start of each step, from any of `jobs` threads

    Raises PlanError for a mistake in the plan or a model, EngineError when an engine fails, and BrokenRequirement
    when a `require` line does not hold: its `result` is the bundle kept as `<output>.rejected`.
    """
    from ..driver import by_actions, compile_plan
    from ..plan.plan import Plan

    checked = plan
    if not isinstance(checked, Plan):  # a compile does the dry run itself
        checked = check(checked, defines=defines, folder=folder, fast=True).raise_errors()
    options = by_actions(jobs, memory, on, store, keep_going, progress or (lambda _text: None))
    options = replace(options, verify_each=verify_each, actions=options.actions and not verify_each, prove=prove)
    return compile_plan(checked, None if output is None else Path(output), options)


def compile_all(
    plans: Mapping[str | Path, str | Path | Plan],
    *,
    jobs: int = 1,
    memory: int | None = None,
    keep_going: bool = True,
    on: str | None = None,
    store: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str | Path, CompileResult | EdgecError]:
    """Compile several plans as one graph of actions: what they share runs once.

    plans       folder of a bundle -> its plan: a path, a text, or what `load` returned
    jobs        actions that run at the same time, each in a process of its own
    memory      bytes that they may take together
    keep_going  after a failure, go on with what does not need what failed
    on, store   as `edgec compile --on --store` has them

    The value of each is its CompileResult, or the EdgecError that it failed with (BrokenRequirement where a `require`
    line does not hold). Raises EdgecError where nothing can run at all: no scheduler, a store that cannot be written.
    """
    from ..driver import by_actions, compile_plans
    from ..plan.plan import Plan

    checked = {
        output: plan if isinstance(plan, Plan) else check(plan, fast=True).raise_errors()
        for output, plan in plans.items()
    }
    options = replace(by_actions(jobs, memory, on, store, keep_going, progress or (lambda _text: None)), actions=True)
    made = compile_plans([(plan, Path(output)) for output, plan in checked.items()], options)
    return dict(zip(checked, made, strict=True))


def estimate(
    plan: str | Path | Plan,
    *,
    defines: Defines | None = None,
    folder: str | Path = ".",
    memory: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Estimate:
    """What the bundle of a plan will do on its device and what its compile takes; no weight is read.

    `decode` and `prefill` are tokens a second, None for a device without published figures; `models`, `pair`, `memory`
    and `compile` hold the rest. PlanError (E0962) if the compile is estimated to take more than `memory` bytes.
    Arguments as for `compile`.
    """
    from ..driver import estimate_plan
    from ..plan.plan import Plan

    checked = plan if isinstance(plan, Plan) else check(plan, defines=defines, folder=folder, fast=True).raise_errors()
    return estimate_plan(checked, progress or (lambda _text: None), memory)


def prove(
    plan: str | Path | Plan,
    *,
    defines: Defines | None = None,
    folder: str | Path = ".",
    progress: Callable[[str], None] | None = None,
) -> list[Proven]:
    """Run what no conformance table holds of a plan, beside the oracle; the rows are kept for every later compile.

    Each `Proven` has the `trial` and its `row`. Empty: nothing was to be run. PlanError (E0640, E0707, E0710) for what
    came out wrong, with its figures. Arguments as for `compile`.
    """
    from ..driver import prove_plan
    from ..plan.plan import Plan

    checked = plan if isinstance(plan, Plan) else check(plan, defines=defines, folder=folder, fast=True).raise_errors()
    return prove_plan(checked, progress or (lambda _text: None))


def inspect(path: str | Path) -> dict[str, Any]:
    """Describe a plan, a model's folder or file, a bundle, or a file of one, as plain JSON values.

    `kind` says what it is. PlanError (E0954) for a file that neither edgec nor an installed plug-in knows.
    """
    from ..commands.inspect import describe

    return describe(Path(path))


def _path_or_text(plan: str | Path, folder: str | Path) -> tuple[Path, str | None]:
    if isinstance(plan, str) and "\n" in plan:
        return Path(folder) / "<text>", plan
    return Path(plan), None


def written_defines(defines: Defines | None) -> list[str]:
    """Definitions as `-D` takes them."""
    return [f"{name}={_written(value)}" for name, value in (defines or {}).items()]


def _written(value: object) -> str:
    """A value as a plan writes it: `true`, `[1, 64]`, `4 bits`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    return str(value)
