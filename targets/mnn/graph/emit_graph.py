"""A general ONNX graph as a plain `.mnn` with its weights beside it, compared with ONNX Runtime before it counts.

    <model>.mnn          the graph (`lower.py`)
    <model>.mnn.weight   the weights, byte for byte ours

The graph that was written runs on random inputs of several kinds in both engines, in MNN's exact mode
(`memory = normal`): what differs by more than rounding does is an error that names the first op whose result is wrong.
In the mode that ships the difference is stated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import EngineError, fail
from ....compiler.ir.linears import Linear
from ....compiler.oracle import compare
from ....compiler.oracle.compare import FROM_THE_END, LARGE, ORDINARY, SMALL, WIDE, ZEROS
from ....compiler.oracle.probes import Probes, Trial
from ..conformance.table import legality
from ..file.read_back import check_linears, weight_file
from ..file.weight_blobs import Blob
from ..run.engine import MnnGraph
from .lower import GraphLowering

if TYPE_CHECKING:
    from ....compiler.ir.module import Module

TOLERANCE = 1e-3  # of the largest magnitude: MNN's Winograd convolutions in float32 were 4e-4 off
_EDGES = (FROM_THE_END, WIDE, ZEROS, LARGE, SMALL)  # numbers that a float or an index is usually not
_LEAST = 1e-6  # a largest value below it counts as this
_SHIPPED_BOUND = 0.1  # int8 activations cost about 0.01; beyond this something else is wrong

Feeds = dict[str, np.ndarray]


@dataclass
class GraphFiles:
    """What was written, and how far its outputs are from ONNX Runtime's, relative to the largest magnitude."""

    file: str
    blobs: dict[str, Blob]
    linears: dict[str, Linear]  # what each blob was made from
    errors: dict[str, float]
    notes: list[str] = field(default_factory=list)


def emit_graph(module: Module, folder: Path, memory: str, threads: int) -> GraphFiles:
    """Write `module` into `folder`, read it back and run it."""
    if set(module.graphs) != {"main"}:
        fail("E0704", f"MNN takes one graph, and `{module.name}` is in buckets")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module.name}.mnn"
    with weight_file(path).open("wb") as file:
        lowering = GraphLowering(module, file, legality())
        lowering.run()
    outputs = [value.name or "" for value in module.main.graph.outputs]
    lowering.net.write(path, outputs)
    check_linears(path, lowering.blobs, lowering.linears)
    errors = _compare(module, path, memory, threads)
    wide = [name for name, blob in lowering.blobs.items() if blob.bits == 32]
    notes = [f"`{name}` is stored as float32: float16 would overflow, or lose digits of small rows" for name in wide]
    return GraphFiles(path.name, lowering.blobs, lowering.linears, errors, notes)


def _compare(module: Module, path: Path, memory: str, threads: int) -> dict[str, float]:
    """The error of each output over all ordinary trials, in the mode that ships."""
    model = _as_stored(module)
    probes = Probes(model)
    trials = _trials(probes, module)
    outputs = list(trials[0].expected)
    for trial, made in zip(trials, _run_all(path, model.graph, outputs, trials, "normal", threads), strict=True):
        if _far(probes, trial, made):
            _name_the_op(module, path, trial.feeds, threads)
    ordinary = [trial for trial in trials if trial.kind == ORDINARY]
    worst: dict[str, float] = {}
    for trial, made in zip(ordinary, _run_all(path, model.graph, outputs, ordinary, memory, threads), strict=True):
        shipped = relative_errors(made, trial.expected)
        name = max(shipped, key=lambda key: shipped[key])
        if memory != "normal" and shipped[name] > _SHIPPED_BOUND:
            message = f"`{name}` of `{module.name}` is off by {shipped[name]:.2g} of its range in MNN"
            help = "deploy with `memory = normal`"
            fail("E0711", f"{message} with `memory = {memory}`", help=help, kind=EngineError)
        worst = {name: max(worst.get(name, 0.0), error) for name, error in shipped.items()}
    return {name: float(f"{error:.3g}") for name, error in worst.items()}


def _trials(probes: Probes, module: Module) -> list[Trial]:
    """Two of ordinary numbers, at two sizes where sizes are open, then one of each other kind that the graph takes."""
    sizes = list(itertools.islice(probes.sizes(), 2))
    found = [probes.trial((sizes * 2)[seed], seed) for seed in range(2 if sizes else 0)]
    found += [probes.trial(sizes[0], seed, kind) for seed, kind in enumerate(_EDGES) if sizes]
    trials = [trial for trial in found if trial is not None]
    if not trials or trials[0].kind != ORDINARY:
        lacking = f"sizes of {', '.join(f'`{name}`' for name in probes.open)}" if probes.open else "numbers"
        fail("E0712", f"no {lacking} were found that `{module.name}` runs with, which MNN could be compared at")
    return trials


def _far(probes: Probes, trial: Trial, made: Feeds) -> bool:
    """Whether an output is further from the oracle's than sums in another order explain.

    Of extreme numbers only results that are finite count: what is no number has no right value.
    """
    expected = {
        name: array
        for name, array in trial.expected.items()
        if trial.kind == ORDINARY or array.dtype.kind != "f" or np.isfinite(array).all()
    }
    far = {name: error for name, error in relative_errors(made, expected).items() if error > TOLERANCE}
    rounding = probes.rounding(trial) if far else {}
    return any(not error * max(_largest(expected[name]), _LEAST) <= rounding[name] for name, error in far.items())


def _name_the_op(module: Module, path: Path, feeds: Feeds, threads: int) -> None:
    """Compare every value of the graph and fail with the first node whose result is wrong."""
    model = _as_stored(module)
    nodes = [node for node in model.graph if node.outputs[0].dtype == ir.DataType.FLOAT]
    model.graph.outputs.extend(node.outputs[0] for node in nodes if not node.outputs[0].is_graph_output())
    expected = reference(model, feeds)
    for node in nodes:
        name = node.outputs[0].name or ""
        try:
            got = _run(path, model.graph, [name], feeds, "normal", threads)
        except EngineError:  # a value MNN folded away, or a constant: it has no tensor of that name
            continue
        error = relative_errors(got, {name: expected[name]})[name]
        if error > TOLERANCE:
            fail(
                "E0711",
                f"MNN computes `{node.name}` ({node.op_type}) of `{module.name}` wrong: off by {error:.2g} of range",
                help="deploy the model `as ort`, or rewrite this node with a pass of your own",
                kind=EngineError,
            )
    fail("E0711", f"MNN's outputs of `{module.name}` differ from ONNX Runtime's", kind=EngineError)


def _as_stored(module: Module) -> ir.Model:
    """The module with its float linears as MNN stores them, in float16: the rounding is not the engine's error."""
    from ....compiler.ir.linears import linears
    from ....compiler.ir.module import constant
    from ....compiler.ir.weights import cast
    from ..file.weight_blobs import half_holds

    model = module.clone().main
    for linear in linears(module, model.graph):
        if linear.kind == "gather" or linear.stored is None or not half_holds(linear.stored):
            continue
        value = linear.value
        weight = constant(value)
        if weight is not None and value.const_value is not None:
            value.const_value = cast(cast(weight, ir.DataType.FLOAT16), weight.dtype)
    return model


def random_feeds(graph: ir.Graph, size: int, seed: int) -> Feeds:
    """Normal floats and ids within every table they could index; dynamic dimensions get `size`."""
    return compare.random_feeds(graph, seed=seed, sizes=dict.fromkeys(compare.open_dimensions(graph), size))


def reference(model: ir.Model, feeds: Feeds) -> Feeds:
    """The outputs of `model` under ONNX Runtime, by name: what MNN's are compared with."""
    from ....compiler.oracle.oracle import run

    return run(model, feeds)


def _run(path: Path, graph: ir.Graph, outputs: list[str], feeds: Feeds, memory: str, threads: int) -> Feeds:
    return next(_run_all(path, graph, outputs, [Trial(ORDINARY, feeds, {})], memory, threads))


def _run_all(
    path: Path, graph: ir.Graph, outputs: list[str], trials: Sequence[Trial], memory: str, threads: int
) -> Iterator[Feeds]:
    """What MNN makes of each trial, in one process."""
    inputs = [value.name or "" for value in graph.inputs]
    session = MnnGraph(path, inputs, outputs, memory, threads, f"MNN running `{path.name}`")
    try:
        for trial in trials:
            yield session.run(trial.feeds)
    finally:
        session.close()


def relative_errors(got: Feeds, expected: Feeds) -> dict[str, float]:
    """max|a - b| / max|b| per output; infinite where shapes differ, or what is not finite is not the same."""
    errors = {}
    for name, wanted in expected.items():
        made = got[name]
        if wanted.dtype.kind != "f" or made.shape != wanted.shape:  # integers are equal, or wrong
            errors[name] = 0.0 if np.array_equal(made, wanted) else float("inf")
            continue
        finite = np.isfinite(wanted)
        if not np.array_equal(made[~finite], wanted[~finite], equal_nan=True):
            errors[name] = float("inf")
            continue
        wanted, made = wanted[finite].astype(np.float64), made[finite].astype(np.float64)
        error = float(np.abs(made - wanted).max(initial=0.0)) / max(_largest(wanted), _LEAST)
        errors[name] = error if np.isfinite(error) else float("inf")
    return errors


def _largest(array: np.ndarray) -> float:
    """The largest finite magnitude."""
    size = np.abs(array.astype(np.float64))
    return float(size[np.isfinite(size)].max(initial=0.0))
