"""Which nodes an engine computes wrong, given that it computes a graph wrong or dies of it.

0. large     values beyond what the engine's floats hold, all of them at once: what reads them is no better off
1. alone     every float value is made an output; a node is wrong whose result is not the oracle's for what it read
2. together  no node is: the first whose result has drifted too far from the oracle's, though what it read has not
3. bisected  the engine dies, or is wrong only where values stay inside: the shortest stretch from the inputs on
             that is wrong ends with the node
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..diagnostics.diagnostic import EngineError
from ..oracle import oracle
from ..oracle.compare import EDGES
from ..oracle.probes import Probes, Trial
from . import detached
from .errors import Arithmetic, far, relative_errors, scales, share
from .not_taken import NotTaken, Wrong

if TYPE_CHECKING:
    from ..emit.engine_protocols import GraphSession

FAILED = ("E0612", "E0701", "E0711", "E0990", "E0991", "E0992")  # an engine died, hung, refused or wrote nothing
_CONVOLUTIONS = ("Conv", "ConvTranspose")
Build = Callable[[ir.Model], "GraphSession"]  # takes a graph to the engine; NotTaken or EngineError where it fails
Say = Callable[[str], None]


def find_wrong(model: ir.Model, build: Build, trial: Trial, arithmetic: Arithmetic, say: Say) -> list[Wrong]:
    """At least one node, of a graph that `build` fails on or whose outputs for `trial` are wrong."""
    try:
        found = _by_values(model, build, trial, arithmetic)
    except NotTaken as refused:
        return list(refused.nodes)
    except EngineError:  # it dies, or does not give the values inside
        found = []
    try:
        return found or [_bisected(model, build, trial, arithmetic, say)]
    except NotTaken as refused:
        return list(refused.nodes)


def _by_values(model: ir.Model, build: Build, trial: Trial, arithmetic: Arithmetic) -> list[Wrong]:
    names = detached.inner_values(model)
    open_ = detached.tapped(model, names)
    expected = _in_the_oracle(lambda: oracle.run(open_, trial.feeds))
    if expected is None:
        return []
    if trial.kind not in EDGES and (large := _too_large(model, expected, arithmetic)):
        return large
    try:
        made = _run(build, detached.tapped(model, names, aside=True), trial.feeds)
    except (EngineError, NotTaken):
        made = _run(build, open_, trial.feeds)
    made = {name: shaped(made[name], expected[name]) for name in names}
    if odd := {name for name in names if made[name].shape != expected[name].shape}:
        return [_wrong(model, name, "comes out in another shape") for name in _first_ones(model, odd)]
    return _alone(model, trial, made, arithmetic) or _drifted(model, made, expected, arithmetic)


def _too_large(model: ir.Model, expected: Mapping[str, np.ndarray], arithmetic: Arithmetic) -> list[Wrong]:
    """The nodes that make or read numbers which are no numbers any more in the engine's floats."""
    sizes = {name: float(np.abs(array).max(initial=0.0)) for name, array in expected.items() if array.dtype.kind == "f"}
    beyond = {name: size for name, size in sizes.items() if np.isfinite(size) and size > (arithmetic.largest or np.inf)}
    found: list[Wrong] = []
    for node in model.graph:
        for does, values in (("makes", node.outputs), ("reads", node.inputs)):
            own = [beyond[value.name] for value in values if value is not None and value.name in beyond]
            if own:
                held = f"{arithmetic.name}'s largest is {arithmetic.largest:,.0f}"
                found.append(Wrong(node.name or "", node.op_type, f"{does} numbers up to {max(own):.3g}: {held}"))
                break
    return found


def _alone(model: ir.Model, trial: Trial, made: dict[str, np.ndarray], arithmetic: Arithmetic) -> list[Wrong]:
    """The nodes whose results are not the oracle's for what they read."""
    alone = _in_the_oracle(lambda: detached.remade(model, trial.feeds, made))
    if alone is None:
        return []
    errors = relative_errors(made, {name: alone[name] for name in made}, scales(model))
    convs = {value.name for node in model.graph if node.op_type in _CONVOLUTIONS for value in node.outputs}
    bounds = {name: arithmetic.conv if name in convs else arithmetic.single for name in made}
    wrong = _first_ones(model, {name for name in made if not errors.get(name, 0.0) <= bounds[name]})
    return [_wrong(model, name, f"is computed wrong: off by {share(errors[name])} of its range") for name in wrong]


def _drifted(
    model: ir.Model, made: dict[str, np.ndarray], expected: Mapping[str, np.ndarray], arithmetic: Arithmetic
) -> list[Wrong]:
    """The first node whose result is too far from what it should be, though none before it is."""
    errors = relative_errors(made, {name: expected[name] for name in made}, scales(model))
    bound = arithmetic.most or arithmetic.single
    first = next((name for name in made if not errors.get(name, 0.0) <= bound), None)
    why = f"loses too much in {arithmetic.name}: off by "
    return [] if first is None else [_wrong(model, first, f"{why}{share(errors[first])} of its range")]


def _in_the_oracle(run: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray] | None:
    """What it makes; None where it refuses a graph that was taken apart."""
    try:
        return run()
    except OSError:  # no room for a file of it: that is no refusal
        raise
    except Exception:  # the engine raises types of its own for each kind of refusal
        return None


def _first_ones(model: ir.Model, wrong: set[str]) -> list[str]:
    """Of wrong values one of each node, where nothing before it is wrong: behind one, sizes may be others too."""
    found: list[str] = []
    behind: set[ir.Value] = set()
    for node in model.graph:
        own = [value.name for value in node.outputs if value.name in wrong]
        if any(value in behind for value in node.inputs if value is not None):
            behind.update(node.outputs)
        elif own:
            behind.update(node.outputs)
            found.append(own[0] or "")
    return found


def shaped(made: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """What an engine holds inside it may have axes of 1 more or less."""
    return made.reshape(expected.shape) if made.size == expected.size else made


def _wrong(model: ir.Model, value: str, why: str) -> Wrong:
    node = next(node for node in model.graph if any(made.name == value for made in node.outputs))
    return Wrong(node.name or "", node.op_type, why)


def _bisected(model: ir.Model, build: Build, trial: Trial, arithmetic: Arithmetic, say: Say) -> Wrong:
    """The last node of the shortest stretch that is wrong; the last of the graph where no shorter one is."""
    nodes = list(model.graph)
    low, high, why = 0, len(nodes), "is where it comes out wrong"
    while high - low > 1:
        middle = (low + high) // 2
        say(f"looking for the node: {high - low} are left")
        problem = _problem(detached.upto(model, middle), build, trial, arithmetic)
        low, high, why = (middle, high, why) if problem is None else (low, middle, problem)
    node = nodes[high - 1]
    return Wrong(node.name or "", node.op_type, why)


def _problem(model: ir.Model, build: Build, trial: Trial, arithmetic: Arithmetic) -> str | None:
    if not model.graph.outputs:
        return None
    feeds = {value.name or "": trial.feeds[value.name or ""] for value in model.graph.inputs}
    expected = _in_the_oracle(lambda: oracle.run(model, feeds))
    if expected is None:
        return None
    try:
        made = _run(build, model, feeds)
    except EngineError as error:
        return f"makes it fail: {_first_line(error)}"
    off = far(Probes(model), Trial(trial.kind, feeds, expected), made, arithmetic)
    return f"is computed wrong: off by {share(max(error for error, _ in off.values()))} of its range" if off else None


def _first_line(error: EngineError) -> str:
    """What happened, without what the engine printed."""
    return error.diagnostics[0].message.splitlines()[0].partition("; it printed")[0]


def _run(build: Build, model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with closing(build(model)) as session:
        return session.run(dict(feeds))
