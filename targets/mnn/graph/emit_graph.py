"""A general ONNX graph as a plain `.mnn` with its weights beside it, compared with ONNX Runtime before it counts.

    <model>.mnn          the graph (`lower.py`)
    <model>.mnn.weight   the weights, byte for byte ours

The graph that was written runs on random inputs in both engines, in MNN's exact mode (`memory = normal`): what
differs is an error that names the first op whose result is wrong. In the mode that ships the difference is stated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import EngineError, fail
from ....compiler.ir.linears import Linear
from ..conformance.table import legality
from ..file.read_back import check_linears, weight_file
from ..file.weight_blobs import Blob
from ..run.engine import MnnGraph
from .lower import GraphLowering

if TYPE_CHECKING:
    from ....compiler.ir.module import Module

TOLERANCE = 1e-4  # of the largest magnitude: float32 sums in another order
_SIZES = (2, 3)  # what dynamic dimensions are tried with
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
    notes = [f"`{name}` is stored as float32: float16 would overflow" for name in wide]
    return GraphFiles(path.name, lowering.blobs, lowering.linears, errors, notes)


def _compare(module: Module, path: Path, memory: str, threads: int) -> dict[str, float]:
    """The error of each output over all trials, in the mode that ships."""
    model = _as_stored(module)
    worst: dict[str, float] = {}
    for trial, size in enumerate(_SIZES):
        feeds = random_feeds(model.graph, size, trial)
        expected = reference(model, feeds)
        exact = relative_errors(_run(path, model.graph, list(expected), feeds, "normal", threads), expected)
        if max(exact.values(), default=0.0) > TOLERANCE:
            _name_the_op(module, path, feeds, threads)
        shipped = exact
        if memory != "normal":
            shipped = relative_errors(_run(path, model.graph, list(expected), feeds, memory, threads), expected)
            if max(shipped.values(), default=0.0) > _SHIPPED_BOUND:
                name = max(shipped, key=lambda key: shipped[key])
                message = f"`{name}` of `{module.name}` is off by {shipped[name]:.2g} of its range in MNN"
                fail(
                    "E0711",
                    f"{message} with `memory = {memory}`",
                    help="deploy with `memory = normal`",
                    kind=EngineError,
                )
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
    from ..file.weight_blobs import fits_half

    model = module.clone().main
    for linear in linears(module, model.graph):
        if linear.kind == "gather" or linear.stored is None or not fits_half(linear.stored):
            continue
        value = linear.value
        weight = constant(value)
        if weight is not None and value.const_value is not None:
            value.const_value = cast(cast(weight, ir.DataType.FLOAT16), weight.dtype)
    return model


def random_feeds(graph: ir.Graph, size: int, seed: int) -> Feeds:
    """Normal floats and ids within every table they could index; dynamic dimensions get `size`."""
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for value in graph.inputs:
        shape = [d if isinstance(d, int) else size for d in value.shape or ()]
        if value.dtype == ir.DataType.FLOAT:
            feeds[value.name or ""] = rng.normal(size=shape).astype(np.float32)
        else:
            dtype = np.int64 if value.dtype == ir.DataType.INT64 else np.int32
            feeds[value.name or ""] = rng.integers(0, _smallest_table(graph), shape).astype(dtype)
    return feeds


def _smallest_table(graph: ir.Graph) -> int:
    tables = [node.inputs[0] for node in graph if node.op_type == "Gather"]
    rows = [table.shape[0] for table in tables if table is not None and table.shape is not None]
    return min((row for row in rows if isinstance(row, int)), default=2)


def reference(model: ir.Model, feeds: Feeds) -> Feeds:
    """The outputs of `model` under ONNX Runtime, by name: what MNN's are compared with."""
    from ....compiler.oracle.oracle import run

    return run(model, feeds)


def _run(path: Path, graph: ir.Graph, outputs: list[str], feeds: Feeds, memory: str, threads: int) -> Feeds:
    inputs = [value.name or "" for value in graph.inputs]
    session = MnnGraph(path, inputs, outputs, memory, threads, f"MNN running `{path.name}`")
    try:
        return session.run(feeds)
    finally:
        session.close()


def relative_errors(got: Feeds, expected: Feeds) -> dict[str, float]:
    """max|a - b| / max|b| per output; infinite where shapes differ, or what is not finite is not the same."""
    errors = {}
    for name, wanted in expected.items():
        made = got[name]
        finite = np.isfinite(wanted)
        if made.shape != wanted.shape or not np.array_equal(made[~finite], wanted[~finite], equal_nan=True):
            errors[name] = float("inf")
            continue
        wanted, made = wanted[finite].astype(np.float64), made[finite].astype(np.float64)
        scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-6)
        error = float(np.abs(made - wanted).max(initial=0.0)) / scale
        errors[name] = error if np.isfinite(error) else float("inf")
    return errors
