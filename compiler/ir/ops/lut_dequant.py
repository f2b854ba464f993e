"""`ai.edgec::LutDequant`: the values of a weight in bit planes, [K, N], for a product with many rows of activations.

    y[K, N] = W[N, K]^T                  W of planes, scale and zero as `plane_weight.py` has it

It reads the bytes that `LutGemv` reads. Kernels make them by two levels of lookup, exact in float32: four bits of each
plane give four integers, and those a value of their block.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..linears import Linear
from ..module import initializer
from ..opset import IR_VERSION, OPSET
from ..weights import from_array
from .op_definition import Cost, OpDefinition, OpExample
from .plane_weight import BODY, example_weight, weight_use

LUT_DEQUANT = "LutDequant"
_BODY = f"""{LUT_DEQUANT} <bits: int = 4, block_size: int = 32, outputs: int = 64>
(planes, scale, zero) => (y)
{{
{BODY}
    y = Identity (turned)
}}"""


class LutDequant(OpDefinition):
    """A weight in bit planes as a float32 matrix [inputs, outputs]."""

    name: ClassVar[str] = LUT_DEQUANT
    body: ClassVar[str] = _BODY

    def as_weight_use(self, node: ir.Node) -> Linear | None:
        """The integers [N, K] with their scales and zero points, by rows."""
        return weight_use(node, 0)

    def cost(self, node: ir.Node, rows: int) -> Cost:
        """The bytes of the planes, and a multiply-add for each weight, however many rows it is for."""
        del rows
        return super().cost(node, 1)

    def example(self) -> OpExample:
        """70 outputs of 64 inputs in blocks of 32, 3 bits."""
        tensors, w = example_weight()
        made = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((64, 70)))
        graph = ir.Graph([], [made], nodes=[], opset_imports={"": OPSET}, name="example")
        model = ir.Model(graph, ir_version=IR_VERSION)
        held = [initializer(graph, name, from_array(name, array)) for name, array in tensors.items()]
        graph.append(self.node(model, "weight", held, made, bits=3, block_size=32, outputs=70))
        return OpExample(model, {}, {"y": w.T.astype(np.float32)})
