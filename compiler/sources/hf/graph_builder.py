"""An ONNX graph written node by node, each value named after its node, its shape and type stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...ir.module import initializer
from ...ir.opset import OPSET
from ...ir.weights import Weight, from_array

Dim = int | str


class GraphBuilder:
    """The graph so far. `weights` are those its nodes may ask for by name."""

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        self.weights = weights
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="main")

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> ir.Value:
        """Declare an input of the graph."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def weight(self, name: str) -> ir.Value:
        """The weight of that name as an initializer."""
        return initializer(self.graph, name, self.weights[name])

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A small constant as an initializer."""
        return initializer(self.graph, name, from_array(name, array))

    def op(
        self,
        op: str,
        name: str,
        inputs: list[ir.Value],
        shape: Sequence[Dim],
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: object,
    ) -> ir.Value:
        """Append a node with one output, `NAME.out`, of the shape and type given."""
        return self.ops(op, name, inputs, {name: shape}, dtype, **attributes)[0]

    def ops(
        self,
        op: str,
        name: str,
        inputs: list[ir.Value],
        outputs: Mapping[str, Sequence[Dim]],
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: object,
    ) -> list[ir.Value]:
        """Append a node; each output value has the name and shape given."""
        made = [
            ir.Value(name=f"{key}.out", type=ir.TensorType(dtype), shape=ir.Shape(shape))
            for key, shape in outputs.items()
        ]
        made_of = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items()]  # type: ignore[arg-type]
        self.graph.append(ir.Node("", op, inputs, made_of, outputs=made, name=name))
        return made
