"""Run what was emitted beside the oracle.

small graphs    whole, on random inputs
larger ones     every linear by itself: the emitted op with its weights, and some rows of the module's in numpy
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import EngineError, fail
from ...compiler.emit.target import EmitJob
from ...compiler.ir.bit_planes import PANEL
from ...compiler.ir.linears import Linear, linears
from ...compiler.ir.module import constant
from ...compiler.ir.weights import from_array
from ...compiler.kernels.shapes import Shape
from ...compiler.oracle import in_rows
from ...compiler.oracle.compare import EDGES, relative_error
from ...compiler.oracle.probes import Probes, Trial
from .lookup import is_lookup, panels_alone
from .session import OrtGraph, kernels, run_alone

_WHOLE = 64 << 20  # bytes of float32 weights up to which a graph is run whole
# sums in another order, of 11 bits, or activations in steps of 1/127, layers deep
_BOUND = {"float32": 2e-4, "fp16": 5e-3, "int8": 0.15}
_HALF_BOUND = 2e-3  # float weights rounded to float16, layers deep
_TOKENS = 3
_PIECES, _PIECE = 4, 64  # how many rows of a weight are looked at, from its first to its last


def compare(
    before: Mapping[str, ir.Model],
    paths: Mapping[str, Path],
    level: str,
    job: EmitJob,
    half: bool,
    lookup: str | None = None,
    shapes: tuple[Shape, ...] = (),
) -> list[str]:
    """Hold each emitted file against the graph it was made from; E0802 where they differ. Returns notes for people.

    `half`: float weights were rounded to float16. `lookup`: how tables of linears by lookup are held, None without any.
    `shapes`: what their kernels are specialised for.
    """
    bound = max(_BOUND[job.options.compute], _BOUND[lookup or "float32"], _HALF_BOUND if half else 0.0)
    comparison = _Comparison(job, level, bound, lookup, shapes)
    for file, model in before.items():
        if _float_bytes(model.graph) <= _WHOLE:
            comparison.whole(model, paths[file])
        else:
            comparison.one_by_one(model, paths[file])
    return comparison.notes


def _float_bytes(graph: ir.Graph) -> int:
    return 4 * sum(value.const_value.size for value in graph.initializers.values() if value.const_value is not None)


class _Comparison:
    def __init__(self, job: EmitJob, level: str, bound: float, lookup: str | None, shapes: tuple[Shape, ...]) -> None:
        self._job, self._level, self._bound, self._libraries = job, level, bound, kernels(lookup, shapes)
        self._exact = job.options.compute == "float32" and lookup is None  # else a range's ends are what is rounded
        self._seen: set[str] = set()
        self.notes: list[str] = []

    def whole(self, model: ir.Model, path: Path) -> None:
        session = OrtGraph(path, self._level, self._libraries)
        module = self._job.module
        probes = Probes(model, module.arch, module.samples)
        trials = probes.trials(most_sizes=1)  # the same engine beside itself: another size finds nothing
        if not trials:
            lacking = f"sizes of {', '.join(f'`{name}`' for name in probes.open)}" if probes.open else "numbers"
            self.notes.append(f"`{path.name}` was opened and not run: no {lacking} were found that it runs with")
        for trial in trials:
            if trial.kind not in EDGES or self._exact:
                made = session.run(trial.feeds)  # the oracle has a sequence as one array
                self._judge_all(probes, trial, {name: np.asarray(one) for name, one in made.items()}, path)
        session.close()

    def _judge_all(self, probes: Probes, trial: Trial, made: Mapping[str, np.ndarray], path: Path) -> None:
        judged = {
            name: array
            for name, array in trial.expected.items()
            if trial.kind not in EDGES or array.dtype.kind != "f" or np.isfinite(array).all()
        }  # of extreme numbers only finite results count: what is no number has no right value
        far = [name for name in judged if not relative_error(judged[name], made[name]) <= self._bound]
        rounding = probes.rounding(trial) if far else {}
        for name in far:
            largest = float(np.abs(trial.expected[name].astype(np.float64)).max(initial=0.0)) if rounding[name] else 0.0
            bound = max(self._bound, rounding[name] / largest if largest else 0.0)
            self._judge(f"output `{name}` of `{path.name}`", trial.expected[name], made[name], bound)

    def one_by_one(self, model: ir.Model, path: Path) -> None:
        """Every linear once, whichever bucket it is met in first."""
        nodes = {node.name: node for node in ir.load(path).graph}
        rng = np.random.default_rng(0)
        for linear in linears(self._job.module, model.graph):
            node = nodes.get(linear.name)
            if linear.name in self._seen or node is None:
                continue
            if in_rows.in_rows(linear.node) is None and not is_lookup(linear.node):
                continue
            if is_lookup(linear.node) and not is_lookup(node):  # a prompt's, of the planes that another bucket shows
                continue
            self._seen.add(linear.name)
            expected, made = self._linear(linear, node, rng)
            self._judge(f"`{linear.name}` of `{path.name}`", expected, made)

    def _linear(self, linear: Linear, node: ir.Node, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n, k = linear.shape
        if is_lookup(linear.node):
            x = rng.standard_normal((1, _TOKENS, k)).astype(np.float32)
            panels = [slice(at.start // PANEL, -(-at.stop // PANEL)) for at in _spread(n)]
            alone, value = panels_alone(node, panels, n)
            made = run_alone(alone, self._level, {value.name or "": x}, self._libraries)
            rows = [slice(at.start * PANEL, min(at.stop * PANEL, n)) for at in panels]
            w = np.concatenate([linear.weight().rows(at.start, at.stop) for at in rows])
            return x @ w.T, made
        rows = list(_spread(n)) if linear.rows_are_outputs else [slice(0, n)]
        alone, value = _alone(node, rows, n)
        if linear.kind == "gather":
            ids = np.concatenate([np.arange(part.start, part.stop) for part in rows])[None]
            dtype = value.dtype or ir.DataType.INT64
            places = np.arange(ids.size, dtype=dtype.numpy())[None]
            made = run_alone(alone, self._level, {value.name or "": places})
            return in_rows.looked_up(linear.weight(), ids), made.astype(np.float32)
        x = rng.standard_normal((_TOKENS, k) if linear.kind == "gemm" else (1, _TOKENS, k)).astype(np.float32)
        return in_rows.product(linear, x, rows), run_alone(alone, self._level, {value.name or "": x})

    def _judge(self, what: str, expected: np.ndarray, made: np.ndarray, bound: float | None = None) -> None:
        error, bound = relative_error(expected, made), self._bound if bound is None else bound
        if not error <= bound:
            fail(
                "E0802",
                f"ONNX Runtime computes {what} {error:.2g} (of its largest "
                f"value) off what the module says, allowed is {bound:.2g}",
                self._job.origin,
                help="use `as ort { format = dequantize }`, which keeps standard operators",
                kind=EngineError,
            )


def _spread(rows: int) -> Iterator[slice]:
    """Pieces of a matrix from its first row to its last."""
    for start in sorted({int(at) for at in np.linspace(0, max(0, rows - _PIECE), _PIECES)}):
        yield slice(start, min(start + _PIECE, rows))


def _alone(node: ir.Node, rows: Sequence[slice], n: int) -> tuple[ir.Model, ir.Value]:
    """The emitted op with what makes its weight, cut to `rows` of its `n`, and the value it is fed."""
    index = 1 if node.op_type.startswith("Gather") else 0
    given, graph = node.inputs[index], node.graph
    if given is None or graph is None:
        raise ValueError(f"`{node.name}` has no input")
    fed = ir.Value(name="fed", type=given.type)
    copy = _Copy({given: fed}, rows, n)
    made = copy.node(node, 2 if node.op_type == "Gemm" else len(node.inputs))  # without the bias
    body = ir.Graph(
        [fed], made.outputs, nodes=copy.nodes, initializers=copy.weights,
        opset_imports=dict(graph.opset_imports), name="linear",
    )  # fmt: skip
    return ir.Model(body, ir_version=11), fed


class _Copy:
    """Copies of nodes and constants; a constant of `n` rows keeps only `rows`."""

    def __init__(self, taken: dict[ir.Value, ir.Value], rows: Sequence[slice], n: int) -> None:
        self._taken, self._rows, self._n = taken, rows, n
        self.nodes: list[ir.Node] = []
        self.weights: list[ir.Value] = []

    def node(self, node: ir.Node, inputs: int) -> ir.Node:
        """A copy of `node` with its first `inputs` inputs, behind copies of what makes them."""
        read = [None if value is None else self._value(value) for value in node.inputs[:inputs]]
        count = sum(part.stop - part.start for part in self._rows)
        kept = [one if one.name != "N" else ir.AttrInt64("N", count) for one in node.attributes.values()]
        outputs = [ir.Value(name=value.name, type=value.type) for value in node.outputs]
        made = ir.Node(node.domain, node.op_type, read, kept, outputs=outputs, name=node.name)
        self.nodes.append(made)
        return made

    def _value(self, value: ir.Value) -> ir.Value:
        if value not in self._taken:
            producer = value.producer()
            if producer is not None:
                self._taken[value] = self.node(producer, len(producer.inputs)).outputs[0]
            else:
                self._taken[value] = self._constant(value)
                self.weights.append(self._taken[value])
        return self._taken[value]

    def _constant(self, value: ir.Value) -> ir.Value:
        held = constant(value)
        if held is None:
            raise ValueError(f"`{value.name}` is no constant")
        if held.dims and held.dims[0] == self._n:
            held = from_array(held.name, np.concatenate([held.rows(one.start, one.stop) for one in self._rows]))
        return ir.Value(name=value.name, type=ir.TensorType(held.dtype), shape=ir.Shape(held.dims), const_value=held)
