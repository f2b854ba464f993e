"""One op as a textual ONNX graph: run on MNN over three sizes of its dynamic dimensions, beside ONNX Runtime.

Inputs whose name begins with `w` become random constants, halves as weights are stored.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ....compiler.ir.attributes import attributes
from ....compiler.ir.module import MAIN, Module
from ..file.read_back import weight_file
from ..graph.emit_graph import random_feeds, reference, relative_errors
from ..graph.lower import GraphLowering
from ..graph.op_classes import use_of
from ..graph.ops import BINARY, REDUCE, UNARY
from ..run.engine import MnnGraph

_HEAD = '<ir_version: 10, opset_import: ["" : 24]>'
_SIZES = (1, 2, 5)


@dataclass(frozen=True)
class OpGraph:
    """A graph that uses `op` once, and what of it the table has a row for."""

    op: str
    text: str

    def model(self) -> ir.Model:
        """The graph with its weights filled in, every node named."""
        proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(f"{_HEAD}\nagraph {self.text}"))
        return ir.from_proto(_filled(proto))

    def node(self) -> ir.Node:
        """The node of `op`: the last one, as helpers stand before it."""
        return [node for node in self.model().graph if node.op_type == self.op][-1]

    def shape(self) -> dict[str, int | float | str | bool]:
        """The shape of the use, as a row has it."""
        return dict(use_of(self.node()).shape)

    def words(self) -> dict[str, str]:
        """What the node states, to tell cases of one op apart."""
        stated = self.node().attributes
        return {name: str(value) for name, value in attributes(self.node()).items() if name in stated}

    def error(self, folder: Path) -> float:
        """The largest error over the sizes, relative to the largest magnitude."""
        return error_of(self.model(), folder)


Numbers = Callable[[ir.Model, int, int], dict[str, np.ndarray]]  # inputs of a graph: size of its free dimensions, seed


def error_of(model: ir.Model, folder: Path, numbers: Numbers = lambda m, s, n: random_feeds(m.graph, s, n)) -> float:
    """The largest error of a graph over the sizes, relative to the largest magnitude."""
    path = folder / "case.mnn"
    with weight_file(path).open("wb") as file:
        lowering = GraphLowering(Module("case", {MAIN: model}), file, None)
        lowering.run()
    outputs = [value.name or "" for value in model.graph.outputs]
    lowering.net.write(path, outputs)
    session = MnnGraph(path, [value.name or "" for value in model.graph.inputs], outputs, "normal", 1, "MNN")
    worst = 0.0
    try:
        for seed, size in enumerate(_SIZES):
            feeds = numbers(model, size, seed)
            worst = max(worst, *relative_errors(session.run(feeds), reference(model, feeds)).values())
    finally:
        session.close()
    return worst


def _filled(proto: onnx.ModelProto) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    graph = proto.graph
    for value in [value for value in graph.input if value.name.startswith("w")]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = rng.normal(size=shape)
        if value.name in ("wpos", "wone"):
            array = np.abs(array) + 0.5
        array = array.astype(np.float16).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        graph.input.remove(value)
    for node in [node for node in graph.node if node.op_type == "Constant"]:  # the loader does the same
        value = node.attribute[0]
        array = np.array(value.ints, np.int64) if value.ints else np.array(value.f, np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)
    for index, node in enumerate(graph.node):
        node.name = f"n{index}"
    return proto


def op_graphs(op: str) -> list[OpGraph]:
    """Graphs that use `op`: elementwise and reducing ops share theirs, the others have their own in `cases.toml`."""
    return [OpGraph(op, text) for text in _texts(op)]


def _texts(op: str) -> list[str]:
    if op in BINARY:
        # powers of negative numbers, and quotients by almost zero, are nobody's business
        base = "abs_x = Abs(x) base = Add(abs_x, wone)" if op == "Pow" else "base = Identity(x)"
        head = "(float[n,5,12] x, float[1] wone, "
        cases = [
            f"{head}float[{shape}] wpos) => (float[n,5,12] y) {{ {base} y = {op}(base, wpos) }}"
            for shape in ("5,12", "1", "1,5,1")
        ]
        both = f"a = Abs(z) b = Add(a, wone) {base} y = {op}(base, b)"
        return [*cases, f"{head}float[n,5,12] z) => (float[n,5,12] y) {{ {both} }}"]
    if op in UNARY:
        pre = "p = Abs(x) q = Add(p, wone)" if op in ("Log", "Sqrt") else "q = Identity(x)"
        return [
            f"(float[n,{shape}] x, float[1] wone) => (float[n,{shape}] y) {{ {pre} y = {op}(q) }}"
            for shape in ("5,12", "6,9,11")
        ]
    if op in REDUCE:
        ways = (("1", 1, "n,1,12"), ("-1", 0, "n,5"), ("1, 2", 1, "n,1,1"))
        return [
            f"(float[n,5,12] x) => (float[{shape}] y) "
            f"{{ i = Constant<value_ints = [{axes}]>() y = {op}<keepdims = {keep}>(x, i) }}"
            for axes, keep, shape in ways
        ]
    return _own()[op]


@functools.cache
def _own() -> dict[str, list[str]]:
    return tomllib.loads(Path(__file__).with_name("cases.toml").read_text(encoding="utf-8"))
