"""Run the steps of a pipeline over a module, and hold every pass to what it claims.

    level taken? globs match?  ->  run  ->  interface kept? legal at its level? outputs within tolerance? (verify_each)

The order of levels is checked before anything runs (`order_problems`); nothing heavy is imported for that.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..calibration.calibration_text import Calibration
from ..diagnostics.diagnostic import Diagnostic, EngineError, Label, PlanError, Span, fail
from ..diagnostics.foreign_code import ForeignFailure, foreign_code
from ..diagnostics.wording import join_or, of_all_layers
from ..ir.levels import Level
from .pass_interface import Chip, Pass, Scope, Skip, StepResult
from .step import Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ir.module import Module

_NOTES = 6  # of a step that progress tells; the report has all


@dataclass(frozen=True)
class PipelineOptions:
    """What to say and check on the way; nothing here changes the module."""

    print_after: tuple[str, ...] = ()  # names of passes, or "all"
    time_passes: bool = False
    verify_each: bool = False
    explain_skips: bool = False
    profiling: bool = False  # as `Scope` says


def run_pipeline(
    module: Module,
    steps: Sequence[Step],
    *,
    default_device: str = "cpu",
    options: PipelineOptions | None = None,
    calibration: Calibration | None = None,
    progress: Callable[[str], None] = lambda _text: None,
    widths: Mapping[int, int] | None = None,
    integer_widths: Mapping[int, int] | None = None,
    minimums: bool = True,
    chips: Sequence[Chip] = (),
) -> list[StepResult]:
    """Rewrite `module` in place, step by step; raises EdgecError at the first thing that does not hold."""
    options = options or PipelineOptions()
    if problems := order_problems(steps, module.level):
        raise PlanError(*problems)
    results = []
    for index, step in enumerate(steps):
        scope = Scope(step.on, step.except_, step.span, calibration, progress=progress, profiling=options.profiling)
        scope.widths, scope.integer_widths = widths or scope.widths, integer_widths
        scope.minimums, scope.chips = minimums, chips
        results.append(_run_step(module, steps[: index + 1], scope, default_device, options))
        _tell(module, step, results[-1], options, progress)
    return results


def order_problems(steps: Sequence[Step], start: Level = Level.SEMANTIC) -> list[Diagnostic]:
    """Steps that stand where the module has left the levels they take."""
    problems, level, raised_by = [], start, None
    for step in steps:
        if level not in step.pass_.takes:
            problems.append(_misplaced(step, level, raised_by))
            continue
        left = step.pass_.leaves
        if left is not None and left > level:
            level, raised_by = left, step
    return problems


def _misplaced(step: Step, level: Level, raised_by: Step | None) -> Diagnostic:
    takes = join_or(f"`{taken.label}`" for taken in step.pass_.takes)
    message = f"`{step.pass_name}` takes a module at level {takes}, here it is `{level.label}`"
    if raised_by is None or level < min(step.pass_.takes):
        needed = step.pass_.behind or f"a pass that leaves level `{min(step.pass_.takes).label}` has to come before it"
        return Diagnostic("E0400", message, Label(step.span), help=needed)
    also = (Label(raised_by.span, f"`{raised_by.pass_name}` makes it {level.label}"),)
    fix = f"put `{step.pass_name}` before `{raised_by.pass_name}`"
    return Diagnostic("E0400", message, Label(step.span), also, fix)


def _run_step(
    module: Module,
    done: Sequence[Step],
    scope: Scope,
    default_device: str,
    options: PipelineOptions,
) -> StepResult:
    from ..ir.annotations import ended_facts
    from ..ir.legality.rules import enforce

    step = done[-1]
    check_globs(module, scope)
    before = module.clone() if options.verify_each else None
    interface, ended = interfaces(module), ended_facts(module)
    changes, seconds = apply(step, module, scope, default_device)
    check_interface(step.pass_name, interface, interfaces(module), step.span)
    enforce(module, f"`{step.pass_name}`", step.span)
    for text in ended_facts(module):
        if text not in ended:
            scope.note(text)
    if not changes and scope.skips:
        scope.note(_nothing(step.pass_name, scope.skips))
    error = None
    if before is not None:
        error = _verify(step, before, module, _bound(done))
    told = (tuple(scope.skips), tuple(of_all_layers(scope.notes)), tuple(scope.tables))
    return StepResult(step.pass_name, step.span, changes, seconds, *told, error, scope.profile)


def _nothing(name: str, skips: Sequence[Skip]) -> str:
    """That a line of the plan does nothing, and the reason that most of its nodes have."""
    (reason, count), *others = Counter(skip.reason for skip in skips).most_common()
    rest = "; `--explain-skips` has the others" if others else ""
    return f"`{name}` changes nothing: {reason} ({count} of {len(skips)}){rest}"


def apply(step: Step, module: Module, scope: Scope, default_device: str) -> tuple[int, float]:
    """Run a step's pass and move the module to the level it leaves; the number of changes, the pass's seconds."""
    start = time.perf_counter()
    changes = call(step.pass_, module, scope)
    seconds = time.perf_counter() - start
    check_touched(step.pass_name, scope)
    if step.pass_.leaves is not None:
        module.level = max(module.level, step.pass_.leaves)
    if module.level >= Level.PLACED:
        place_rest(module, default_device)
    return changes, seconds


def call(pass_: Pass, module: Module, scope: Scope) -> int:
    """`pass_.run`, with whatever it raises turned into a diagnostic that names pass and place."""
    from ..ir.weights import WeightsUnread

    try:
        with foreign_code():
            changes = pass_.run(module, scope)
    except ForeignFailure as failure:
        error = failure.error
        if isinstance(error, (MemoryError, WeightsUnread)):
            raise error from None
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        message = f"pass `{pass_.name}` failed at {place}: {failure}"
        raise EngineError(Diagnostic("E0404", message, _label(scope.origin))) from error
    if not isinstance(changes, int):
        kind = type(changes).__name__
        fail(
            "E0406",
            f"pass `{pass_.name}` returned a {kind}, not the number of its changes",
            scope.origin,
            kind=EngineError,
        )
    return int(changes)


def check_globs(module: Module, scope: Scope) -> None:
    """Each glob has to match an op of the module."""
    from fnmatch import fnmatchcase

    globs = [*(scope.on or ()), *scope.except_]
    names = {node.name for node in module.nodes() if node.name} if globs else set()
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            fail("E0402", f"`{glob}` matches no op of `{module.name}`", scope.origin, help=_nearest(glob, names))


def _nearest(glob: str, names: set[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(glob, sorted(names), n=1, cutoff=0.6)
    listing = "`edgec inspect MODEL` lists the names of all ops"
    return f"there is an op named `{near[0]}`; {listing}" if near else listing


def check_touched(pass_name: str, scope: Scope) -> None:
    """Each `on` glob has to match something the pass works on, not only some op."""
    for glob in scope.on or ():
        if glob not in scope.touched:
            fail(
                "E0403",
                f"`{glob}` matches no op that `{pass_name}` works on",
                scope.origin,
                help=f"`edgec passes {pass_name}` says what it works on",
            )


Interface = dict[str, tuple[list[str], list[str]]]


def interfaces(module: Module) -> Interface:
    """The interface of every graph of the module, by its key."""
    return {key: interface(model.graph) for key, model in module.graphs.items()}


def interface(graph: ir.Graph) -> tuple[list[str], list[str]]:
    """Names and types of inputs and outputs, as text."""
    return [_port(value) for value in graph.inputs], [_port(value) for value in graph.outputs]


def _port(value: ir.Value) -> str:
    dtype = value.dtype.name.lower() if value.dtype is not None else "?"
    rank = "?" if value.shape is None else len(value.shape)
    return f"{value.name} ({dtype}, rank {rank})"


def check_interface(pass_name: str, before: Interface, after: Interface, span: Span | None) -> None:
    """Every graph keeps the inputs and outputs of the graph it was made from."""
    first = next(iter(before.values()))
    for key, made in after.items():
        for kind, old, new in zip(("input", "output"), before.get(key, first), made, strict=True):
            if old != new:
                gone = [port for port in old if port not in new]
                extra = [port for port in new if port not in old]
                change = (
                    ", ".join([*(f"without {p}" for p in gone), *(f"with {p}" for p in extra)]) or "in another order"
                )
                fail(
                    "E0405",
                    f"pass `{pass_name}` changed the {kind}s of graph `{key}`: {change}",
                    span,
                    kind=EngineError,
                )


def place_rest(module: Module, device: str) -> None:
    """Give every node without a device that of the deploy line."""
    from ..ir.annotations import DEVICE

    for node in module.nodes():
        if DEVICE.get(node) is None:
            DEVICE.set(node, device)


def _bound(done: Sequence[Step]) -> float:
    """How far the last step may move outputs: a step that replaces an earlier one's work also undoes its error."""
    last = done[-1]
    return sum(step.pass_.tolerance.bound for step in done if isinstance(step.pass_, type(last.pass_)))


def _verify(step: Step, before: Module, after: Module, bound: float) -> dict[str, float]:
    from ..oracle.compare import errors

    found = errors(before, after, moved_cache=step.pass_.moves_cache)
    worst = max(found, key=lambda name: found[name], default=None)
    if worst is not None and not found[worst] <= bound:
        allowed = f"{bound:.3g} of its largest value" if bound else "nothing: the pass claims to be exact"
        fail(
            "E0401",
            f"`{step.pass_name}` moved output `{worst}` by {found[worst]:.3g} of its largest value, "
            f"allowed is {allowed}",
            step.span,
            kind=EngineError,
        )
    return found


def _tell(
    module: Module, step: Step, result: StepResult, options: PipelineOptions, progress: Callable[[str], None]
) -> None:
    took = f" in {result.seconds:.3f} s" if options.time_passes else ""
    progress(f"{module.name}: {step.pass_name}: {result.changes} changes{took}")
    for note in result.notes[:_NOTES]:
        progress(f"{module.name}: {step.pass_name}: {note}")
    if options.explain_skips:
        for skip in result.skips:
            progress(f"{module.name}: {step.pass_name} skipped {skip.node}: {skip.reason}")
    if result.error:
        worst = max(result.error, key=lambda name: result.error[name] if result.error else 0)
        progress(f"{module.name}: {step.pass_name}: outputs moved by at most {result.error[worst]:.2e} ({worst})")
    if step.pass_name in options.print_after or "all" in options.print_after:
        from ..ir.graph_text import module_text

        progress(module_text(module))


def _label(span: Span | None) -> Label | None:
    return Label(span) if span is not None else None
