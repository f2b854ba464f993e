"""Hold a pass to what it claims, in a test: the same checks for built-in passes and for yours.

    def test_folds():
        result = run_and_check(FoldScale(), GRAPH)          # GRAPH: textual ONNX, or a Module
        assert (result.ops, result.changes) == (["Conv"], 1)

It runs the pass on a copy and raises CheckFailed unless
  - the pass takes the module's level, and the result is legal at the level it leaves,
  - names, types, ranks and order of inputs and outputs are as before, and dimensions that were numbers too,
  - a second run changes nothing,
  - on random inputs every output stays within the pass's own tolerance, measured as max|after - before| / max|before|
    in ONNX Runtime (0, the default, demands equal bits).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import EdgecError
from ..files.scratch import scratch_folder
from ..ir.annotations import DEVICE
from ..ir.legality.rules import violations
from ..ir.levels import Level
from ..ir.module import Module
from ..oracle.compare import Feeds, errors
from .pass_interface import Pass, Scope, Skip
from .run_steps import call, check_globs, check_interface, check_touched, interfaces

if TYPE_CHECKING:
    from ..calibration.calibration_text import Calibration


class CheckFailed(AssertionError):
    """The pass does not do what it claims."""


@dataclass(frozen=True)
class CheckedRun:
    """What the pass did to the copy in `module`."""

    ops: list[str]  # op types of the first graph, in order
    changes: int
    skips: tuple[Skip, ...]
    notes: tuple[str, ...]
    module: Module
    errors: dict[str, float]  # output -> the largest relative error over the seeds


def run_and_check(
    pass_: Pass,
    module_or_text: Module | str,
    on: Iterable[str] | None = None,
    except_: Iterable[str] = (),
    *,
    calibration: Calibration | None = None,
    feeds: Feeds | None = None,
    seeds: Iterable[int] = (0, 1),
) -> CheckedRun:
    """Run `pass_` on a copy of the module (or of textual ONNX) and check its claims; diagnostics are passed on."""
    before = from_text(module_or_text) if isinstance(module_or_text, str) else module_or_text
    if before.level not in pass_.takes:
        raise CheckFailed(f"`{pass_.name}` does not take a module at level `{before.level.label}`")
    module = before.clone()
    scope = _scope(on, except_, calibration)
    changes = _run(pass_, module, scope, before)
    moved = _moved(pass_, before, module, feeds, seeds)
    _second_run(pass_, module, _scope(on, except_, calibration))
    ops = [node.op_type for node in next(iter(module.graphs.values())).graph]
    return CheckedRun(ops, changes, tuple(scope.skips), tuple(scope.notes), module, moved)


def from_text(text: str, level: Level = Level.SEMANTIC) -> Module:
    """A module from textual ONNX, loaded like any ONNX file: opset raised, shapes inferred, nodes named."""
    import onnx

    from ..sources.onnx.load_onnx import load_onnx

    with scratch_folder("check") as folder:
        path = folder / "model.onnx"
        onnx.save(onnx.parser.parse_model(text), str(path))
        module = load_onnx("checked", path, 0, as_written=True)
    module.level = level
    return module


def _scope(on: Iterable[str] | None, except_: Iterable[str], calibration: Calibration | None) -> Scope:
    return Scope(None if on is None else tuple(on), tuple(except_), calibration=calibration)


def _run(pass_: Pass, module: Module, scope: Scope, before: Module) -> int:
    check_globs(module, scope)
    ports = interfaces(before)
    changes = call(pass_, module, scope)
    check_touched(pass_.name, scope)
    if pass_.leaves is not None:
        module.level = max(module.level, pass_.leaves)
    if module.level >= Level.PLACED:
        for node in module.nodes():
            if DEVICE.get(node) is None:
                DEVICE.set(node, "cpu")
    try:
        check_interface(pass_.name, ports, interfaces(module), None)
    except EdgecError as error:
        raise CheckFailed(error.diagnostics[0].message) from None
    _check_shapes(before, module)
    if found := violations(module):
        raise CheckFailed(f"after `{pass_.name}` the module is not legal: " + "; ".join(found))
    return changes


def _check_shapes(before: Module, after: Module) -> None:
    """What was a number in the shape of an input or output has to stay that number."""
    for key, model in after.graphs.items():
        old = before.graphs.get(key, next(iter(before.graphs.values()))).graph
        ports = zip([*old.inputs, *old.outputs], [*model.graph.inputs, *model.graph.outputs], strict=True)
        for was, now in ports:
            for a, b in zip(was.shape or (), now.shape or (), strict=True):
                if isinstance(a, int) and a != b:
                    raise CheckFailed(f"`{was.name}` had the shape {was.shape}, now {now.shape}")


def _moved(pass_: Pass, before: Module, after: Module, feeds: Feeds | None, seeds: Iterable[int]) -> dict[str, float]:
    worst: dict[str, float] = {}
    for seed in seeds:
        for name, error in errors(before, after, seed, feeds, pass_.moves_cache).items():
            worst[name] = max(worst.get(name, 0.0), error)
    for name, error in worst.items():
        if not error <= pass_.tolerance.bound:
            claimed = f"{pass_.tolerance.bound:.3g}" if pass_.tolerance.bound else "to be exact"
            raise CheckFailed(f"`{pass_.name}` moved output `{name}` by {error:.3g}, it claims {claimed}")
    return worst


def _second_run(pass_: Pass, module: Module, scope: Scope) -> None:
    if module.level not in pass_.takes:
        return
    again = module.clone()
    changes = call(pass_, again, scope)
    if changes:
        raise CheckFailed(f"a second run of `{pass_.name}` made {changes} changes")
    if _nodes(again) != _nodes(module):
        raise CheckFailed(f"a second run of `{pass_.name}` rewrote the graph and counted no change")


def _nodes(module: Module) -> list[tuple[object, ...]]:
    return [
        (n.name, n.op_type, n.domain, *(v.name if v else None for v in n.inputs), *(v.name for v in n.outputs))
        for n in module.nodes()
    ]
