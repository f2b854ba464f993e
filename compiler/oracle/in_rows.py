"""The oracle for models that are too large to be held: linears in numpy by rows of their weights, the rest op by op.

    y[.., a:b] = x[.., K] @ W[a:b, K]^T          the rows a:b of W are made, used and forgotten
    y          = W[ids]                           only the rows that are looked up

Every other op runs in ONNX Runtime alone, unoptimised. What is in memory: the values between ops as long as something
reads them, and a block of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..ir.bodies import bodies
from ..ir.linears import Linear, as_linear
from ..ir.module import constant
from ..ir.onnx_runtime import session
from ..ir.weights import Weight

WHOLE = 256 << 20  # bytes of the float32 form of a graph's weights up to which ONNX Runtime runs it whole
Arrays = dict[str, np.ndarray]


def is_large(graph: ir.Graph) -> bool:
    """Whether the weights of `graph`, as float32, take more than `WHOLE` bytes."""
    held = (constant(value) for value in graph.initializers.values())
    return 4 * sum(weight.size for weight in held if weight is not None) > WHOLE


def goes_in_rows(graph: ir.Graph) -> bool:
    """Whether every node can be run by itself: none has a body that reads values around it."""
    return not any(map(bodies, graph))


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> Arrays:
    """All outputs of `model` for `feeds`, by name."""
    return _Run(model, feeds).outputs()


class _Run:
    def __init__(self, model: ir.Model, feeds: Mapping[str, np.ndarray]) -> None:
        self._model, self._graph = model, model.graph
        self._values: dict[ir.Value, np.ndarray] = {v: feeds[v.name or ""] for v in self._graph.inputs}
        self._linears = {node: linear for node in self._graph if (linear := in_rows(node)) is not None}
        self._needed = self._ancestors()
        self._readers: dict[ir.Value, int] = {}
        for node in self._needed:
            for value in self._reads(node):
                self._readers[value] = self._readers.get(value, 0) + 1

    def outputs(self) -> Arrays:
        kept = set(self._graph.outputs)
        for node in self._graph:
            if node not in self._needed:
                continue
            made = self._linear(self._linears[node]) if node in self._linears else self._op(node)
            self._values.update(made)
            for value in self._reads(node):
                self._readers[value] -= 1
                if not self._readers[value] and value not in kept:
                    self._values.pop(value, None)
        return {value.name or "": self._value(value) for value in self._graph.outputs}

    def _reads(self, node: ir.Node) -> set[ir.Value]:
        """What a node is given: of a linear what it multiplies, not its weight."""
        linear = self._linears.get(node)
        inputs: Sequence[ir.Value | None] = node.inputs
        if linear is not None:
            inputs = [node.inputs[1 if linear.kind == "gather" else 0], linear.bias]
        return {value for value in inputs if value is not None}

    def _ancestors(self) -> set[ir.Node]:
        """The nodes that the outputs depend on; a linear's weight is not computed by nodes here."""
        found: set[ir.Node] = set()
        waiting = [value.producer() for value in self._graph.outputs]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in found:
                found.add(node)
                waiting += [value.producer() for value in self._reads(node)]
        return found

    def _value(self, value: ir.Value) -> np.ndarray:
        if value in self._values:
            return self._values[value]
        held = constant(value)
        if held is None:
            raise ValueError(f"`{value.name}` was not computed")
        return held.numpy()

    def _linear(self, linear: Linear) -> dict[ir.Value, np.ndarray]:
        x = self._value(next(iter(self._reads(linear.node) - {linear.bias})))
        made = looked_up(linear.weight(), x) if linear.kind == "gather" else product(linear, x)
        if linear.kind == "gemm" and linear.bias is not None:
            beta = linear.node.attributes.get("beta")
            made = made + self._value(linear.bias) * np.float32(1.0 if beta is None else beta.as_float())
        output = linear.node.outputs[0]
        return {output: made if output.dtype is None else made.astype(output.dtype.numpy(), copy=False)}

    def _op(self, node: ir.Node) -> dict[ir.Value, np.ndarray]:
        """One node in ONNX Runtime: constants stay initializers, everything else is fed."""
        given = {value: _twin(value) for value in node.inputs if value is not None}
        outputs = [ir.Value(name=value.name, type=value.type) for value in node.outputs]
        alone = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else given[value] for value in node.inputs],
            list(node.attributes.values()),
            overload=node.overload,
            outputs=outputs,
            name=node.name,
        )
        fed = {value: twin for value, twin in given.items() if twin.const_value is None}
        for value, twin in fed.items():
            array = self._value(value)
            twin.type, twin.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
        graph = ir.Graph(
            list(fed.values()),
            [value for value in outputs if value.name],
            nodes=[alone],
            initializers=[twin for twin in given.values() if twin.const_value is not None],
            opset_imports=dict(self._graph.opset_imports),
            name="op",
        )
        functions = [function.clone() for function in self._model.functions.values()]
        model = ir.Model(graph, ir_version=self._model.ir_version or 11, functions=functions)
        opened = session(ir.to_proto(model).SerializeToString())
        results = opened.run(None, {twin.name: self._value(value) for value, twin in fed.items()})
        named = [value for value in node.outputs if value.name]
        return {value: np.asarray(array) for value, array in zip(named, results, strict=True)}


def _twin(value: ir.Value) -> ir.Value:
    held = constant(value)
    if held is None:
        return ir.Value(name=value.name)
    return ir.Value(
        name=value.name,
        type=ir.TensorType(held.dtype),
        shape=ir.Shape(held.dims),
        const_value=value.const_value or held,
    )


def in_rows(node: ir.Node) -> Linear | None:
    """`node` as a linear whose weight can be read by rows; None for everything else."""
    linear = as_linear(node)
    if linear is None or linear.kind not in ("matmul", "gemm", "gather"):
        return None
    return linear if linear.rows_are_outputs or linear.quant is None else None


def product(linear: Linear, x: np.ndarray, rows: Sequence[slice] = ()) -> np.ndarray:
    """x[..,K] @ W^T [..,N], without a bias; `rows`: only these outputs, one behind the other."""
    if linear.stored is not None and not linear.rows_are_outputs:
        made = np.zeros((*x.shape[:-1], linear.shape[0]), np.float32)
        for start, block in linear.stored.blocks():  # [K, N]: rows are inputs
            made += x[..., start : start + len(block)] @ block.astype(np.float32)
        return np.concatenate([made[..., part] for part in rows], axis=-1) if rows else made
    weight = linear.weight()
    blocks = (weight.rows(part.start, part.stop) for part in rows) if rows else (block for _, block in weight.blocks())
    return np.concatenate([x @ block.astype(np.float32).T for block in blocks], axis=-1)


def looked_up(weight: Weight, ids: np.ndarray) -> np.ndarray:
    """W[ids] [.., H]; every distinct row is read once."""
    distinct, places = np.unique(ids, return_inverse=True)
    found: list[Any] = [weight.rows(at, at + 1) for at in (int(one) % weight.dims[0] for one in distinct)]
    rows = np.concatenate(found) if found else np.zeros((0, *weight.dims[1:]), np.float32)
    return rows[places.reshape(ids.shape)]
