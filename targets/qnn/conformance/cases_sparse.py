"""HTP's sparse store: weights in the forms it packs, the rows that meet them, and what stands beside the linear.

Each graph is compiled with the store and without; right is the same bits. Graphs are raw: a lowering feeds every linear
`sparse_store.ROWS` rows, so those with fewer are on record for what HTP computes wrong then.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ....compiler.emit.conformance.measure import Case
from ....compiler.ir.sparse_pattern import PAIRS, Sparsity
from ..sparse_store import PATTERNS

LOWERING = "raw.sparse_store"
ROWS = (1, 4, 8, 16, 17, 32, 64, 128)
NEIGHBOURS = ("none", "add", "linear", "norm", "dense")
_SIZE = 256  # inputs and outputs: pages are whole, and a case takes seconds
_SCALE = 0.001
_ZERO = 32768

GraphAndFeeds = tuple[onnx.ModelProto, dict[str, np.ndarray]]


def grid(quick: bool = False) -> Iterator[Case]:
    """`quick` keeps the rows around those that are fed."""
    for weights in sorted(PATTERNS):
        for rows in (1, 8, 32, 64) if quick else ROWS:
            for beside in NEIGHBOURS:
                shape = {"weights": f"int{weights}", "rows": rows, "beside": beside}
                cells = tuple(sorted(shape.items()))
                yield Case(LOWERING, cells, lambda w=weights, r=rows, b=beside: linear(w, r, b), raw=True)


def linear(bits: int, rows: int, beside: str) -> GraphAndFeeds:
    """A sparse linear on uint16, as a lowered graph has it, with a neighbour.

    add     y = x + Wx          linear   y = V(Wx), both sparse
    norm    y = W norm(x)       dense    y = Wx and z = Dx, D without zeros
    """
    sketch = _Graph(bits)
    x = sketch.opened()
    if beside == "norm":
        gain = sketch.constant(np.ones(_SIZE, np.float32))
        x = sketch.rounded(sketch.op("RMSNormalization", [x, gain], axis=-1, epsilon=1e-6))
    y = sketch.linear(x)
    if beside == "add":
        y = sketch.rounded(sketch.op("Add", [sketch.opened(), y]))
    if beside == "linear":
        y = sketch.linear(y)
    outputs = [y] + ([sketch.linear(x, dense=True)] if beside == "dense" else [])
    model = sketch.model(outputs, rows)
    x0 = sketch.chance.normal(_ZERO, 4000, (1, rows, _SIZE)).clip(0, 65535).astype(np.uint16)
    return model, {"x": x0}


class _Graph:
    def __init__(self, bits: int) -> None:
        self.chance, self._bits = np.random.default_rng(bits), bits
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._scale = self.constant(np.float32(_SCALE))
        self._zero = self.constant(np.uint16(_ZERO))

    def constant(self, array: np.ndarray | np.generic, int4: bool = False) -> str:
        name = f"c{len(self._constants)}"
        array = np.asarray(array)
        if int4:
            made = helper.make_tensor(name, TensorProto.INT4, array.shape, array.ravel())
        else:
            made = numpy_helper.from_array(array, name)
        self._constants.append(made)
        return name

    def op(self, kind: str, inputs: list[str], **attributes: int | float) -> str:
        name = f"v{len(self._nodes)}"
        node = helper.make_node(kind, inputs, [name], name, **attributes)  # pyright: ignore[reportArgumentType]
        self._nodes.append(node)
        return name

    def opened(self) -> str:
        return self.op("DequantizeLinear", ["x", self._scale, self._zero])

    def rounded(self, value: str) -> str:
        made = self.op("QuantizeLinear", [value, self._scale, self._zero])
        return self.op("DequantizeLinear", [made, self._scale, self._zero])

    def linear(self, x: str, dense: bool = False) -> str:
        q = weight(self._bits, self.chance, dense).T
        scale = self.constant(np.full(_SIZE, 0.5 / (1 << (self._bits - 1)) / np.sqrt(_SIZE) * 4, np.float32))
        zero = self.constant(np.zeros(_SIZE, np.int8), self._bits == 4)
        w = self.op("DequantizeLinear", [self.constant(q, self._bits == 4), scale, zero], axis=1)
        return self.rounded(self.op("MatMul", [x, w]))

    def model(self, outputs: list[str], rows: int) -> onnx.ModelProto:
        names = [f"y{number}" for number in range(len(outputs))]
        for value, name in zip(outputs, names, strict=True):
            self._nodes.append(helper.make_node("QuantizeLinear", [value, self._scale, self._zero], [name], name=name))
        specs = {
            name: helper.make_tensor_value_info(name, TensorProto.UINT16, [1, rows, _SIZE]) for name in ("x", *names)
        }
        graph = helper.make_graph(self._nodes, "case", [specs["x"]], [specs[name] for name in names], self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def weight(bits: int, chance: np.random.Generator, dense: bool = False) -> np.ndarray:
    """Integers [N, K], int8, in the pattern that HTP packs at that width."""
    high = (1 << (bits - 1)) - 1
    q = chance.integers(1, high + 1, (_SIZE, _SIZE)) * chance.choice((-1, 1), (_SIZE, _SIZE))
    if dense:
        return q.astype(np.int8)
    sparsity = Sparsity(PATTERNS[bits])
    units = len(sparsity.units)
    kept = chance.random((_SIZE, _SIZE // sparsity.group, units)).argsort(-1) < sparsity.keep
    repeat = 2 if sparsity.pattern == PAIRS else 1
    return np.where(np.concatenate([kept] * repeat, axis=-1).reshape(_SIZE, _SIZE), q, 0).astype(np.int8)
