"""A general ONNX graph as a plain `.mnn` with its weights beside it, compared with ONNX Runtime before it counts.

    <model>.mnn          the graph (`lower.py`)
    <model>.mnn.weight   the weights, byte for byte ours

The graph that was written runs on random inputs of several kinds in both engines, in MNN's exact mode
(`memory = normal`): what differs by more than rounding does is an error that names the first op whose result is wrong.
In the mode that ships the difference is stated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import EngineError, fail
from ....compiler.ir.linears import Linear
from ....compiler.oracle import compare
from ....compiler.oracle.compare import EDGES, LARGE, ORDINARY
from ....compiler.oracle.probes import Probes, Trial
from ....compiler.proof.errors import FLOAT32, far, relative_errors
from ....compiler.proof.trials import trials
from ..conformance.table import legality
from ..file.read_back import check_linears, weight_file
from ..file.weight_blobs import Blob
from ..file.writer import start_converter
from ..run.engine import MnnGraph, graph_process
from .lower import GraphLowering

if TYPE_CHECKING:
    from ....compiler.emit.child_process import Child
    from ....compiler.emit.shared_child import SharedChild
    from ....compiler.emit.stored_weight import StoredWeight
    from ....compiler.ir.module import Module

SHIPPED_BOUND = 0.1  # int8 activations cost about 0.01; beyond this something else is wrong

Feeds = dict[str, np.ndarray]


@dataclass
class GraphFiles:
    """What was written, and how far its outputs are from ONNX Runtime's, relative to the largest magnitude."""

    file: str
    blobs: dict[str, Blob]
    linears: dict[str, Linear]  # what each blob was made from
    errors: dict[str, float]
    lowering: str = "edgec"  # whose it is
    memory: str = ""  # the mode it runs in, where that is not the plan's
    stored: dict[str, StoredWeight] = field(default_factory=dict)  # of linears without a blob
    proof: dict[str, Any] = field(default_factory=dict)  # what held it right, where the engine lowered it
    notes: list[str] = field(default_factory=list)
    plain: Path | None = None  # the graph in plain operators, on the same weights


@dataclass(frozen=True)
class Processes:
    """Processes for many graphs, one after the other: to start one takes longer than a small graph."""

    converter: Child
    graphs: SharedChild


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """Both processes, until the end of the block."""
    with start_converter("parts") as converter, graph_process() as graphs:
        yield Processes(converter, graphs)


def emit_graph(
    module: Module, folder: Path, memory: str, threads: int, file: str = "", processes: Processes | None = None
) -> GraphFiles:
    """Write `module` into `folder` as `<file>.mnn` (empty: by its name), read it back and run it.

    `processes`: those of many graphs; without them this one's are its own.
    """
    if set(module.graphs) != {"main"}:
        fail("E0704", f"MNN takes one graph, and `{module.name}` is in buckets")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file or module.name}.mnn"
    with weight_file(path).open("wb") as weights:
        lowering = GraphLowering(module, weights, legality())
        lowering.run()
    outputs = [value.name or "" for value in module.main.graph.outputs]
    written = lowering.net.write(path, outputs, processes and processes.converter)
    check_linears(path, lowering.blobs, lowering.linears, written)
    errors = _compare(module, path, memory, threads, processes and processes.graphs)
    wide = [name for name, blob in lowering.blobs.items() if blob.bits == 32]
    notes = [f"`{name}` is stored as float32: float16 would overflow, or lose digits of small rows" for name in wide]
    return GraphFiles(path.name, lowering.blobs, lowering.linears, errors, notes=notes)


def _compare(module: Module, path: Path, memory: str, threads: int, shared: SharedChild | None) -> dict[str, float]:
    """The error of each output over all ordinary trials, in the mode that ships."""
    model = _as_stored(module)
    probes = Probes(model, samples=module.samples)
    tried, _ = trials(probes, module.name)
    outputs = list(tried[0].expected)
    exact = _run_all(path, model.graph, outputs, tried, "normal", threads, shared)
    for trial, made in zip(tried, exact, strict=True):
        if far(probes, trial, made, FLOAT32):
            _name_the_op(module, path, trial.feeds, threads)
    ordinary = [trial for trial in tried if trial.kind not in EDGES]
    if not any(made.any() for trial in ordinary for made in trial.expected.values()):  # a shadow: it takes outliers
        ordinary += [trial for trial in tried if trial.kind == LARGE]
    worst: dict[str, float] = {}
    as_shipped = _run_all(path, model.graph, outputs, ordinary, memory, threads, shared)
    for trial, made in zip(ordinary, as_shipped, strict=True):
        shipped = relative_errors(made, trial.expected)
        name = max(shipped, key=lambda key: shipped[key])
        if memory != "normal" and shipped[name] > SHIPPED_BOUND:
            message = f"`{name}` of `{module.name}` is off by {shipped[name]:.2g} of its range in MNN"
            help = "deploy with `memory = normal`"
            fail("E0711", f"{message} with `memory = {memory}`", help=help, kind=EngineError)
        worst = {name: max(worst.get(name, 0.0), error) for name, error in shipped.items()}
    return {name: float(f"{error:.3g}") for name, error in worst.items()}


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
        if error > FLOAT32.conv:
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
    return compare.random_feeds(graph, seed=seed, sizes=dict.fromkeys(compare.open_dimensions(graph.inputs), size))


def reference(model: ir.Model, feeds: Feeds) -> Feeds:
    """The outputs of `model` under ONNX Runtime, by name: what MNN's are compared with."""
    from ....compiler.oracle.oracle import run

    return run(model, feeds)


def _run(path: Path, graph: ir.Graph, outputs: list[str], feeds: Feeds, memory: str, threads: int) -> Feeds:
    return next(_run_all(path, graph, outputs, [Trial(ORDINARY, feeds, {})], memory, threads))


def _run_all(
    path: Path,
    graph: ir.Graph,
    outputs: list[str],
    trials: Sequence[Trial],
    memory: str,
    threads: int,
    shared: SharedChild | None = None,
) -> Iterator[Feeds]:
    """What MNN makes of each trial, in one process."""
    inputs = [value.name or "" for value in graph.inputs]
    session = MnnGraph(path, inputs, outputs, memory, threads, f"MNN running `{path.name}`", shared)
    try:
        for trial in trials:
            yield session.run(trial.feeds)
    finally:
        session.close()
