"""`ai.edgec::LutGemv`: a linear whose integers lie in bit planes, for kernels that multiply by table lookup.

    y[.., N] = x[.., K] @ W[N, K]^T      W of planes, scale and zero as `plane_weight.py` has it

An emitter may multiply `dequantise` rows or more (0: never) by `LutDequant` instead, from the same planes.

With `tables = 8` a kernel may round the sums in its tables to int8, with a step for every block of inputs, with 16 to
int16, as the kernels of `compiler/kernels/lookup` do; the body does not round.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..linears import Linear
from ..module import initializer
from ..opset import IR_VERSION, OPSET
from ..weights import from_array
from .op_definition import OpDefinition, OpExample
from .plane_weight import BODY, example_weight, weight_use

LUT_GEMV = "LutGemv"
_BODY = f"""{LUT_GEMV} <bits: int = 4, block_size: int = 32, outputs: int = 64, tables: int = 8, dequantise: int = 0>
(x, planes, scale, zero) => (y)
{{
{BODY}
    y = MatMul (x, turned)
}}"""


class LutGemv(OpDefinition):
    """A linear over bit planes, for kernels that look up sums of inputs instead of multiplying."""

    name: ClassVar[str] = LUT_GEMV
    body: ClassVar[str] = _BODY

    def as_weight_use(self, node: ir.Node) -> Linear | None:
        """The integers [N, K] with their scales and zero points, by rows."""
        return weight_use(node, 1)

    def example(self) -> OpExample:
        """70 outputs of 64 inputs in blocks of 32, 3 bits."""
        tensors, w = example_weight()
        x = np.random.default_rng(6).normal(size=(1, 3, 64)).astype(np.float32)
        inputs, outputs = (_activation("x", (1, 3, 64)), _activation("y", (1, 3, 70)))
        graph = ir.Graph([inputs], [outputs], nodes=[], opset_imports={"": OPSET}, name="example")
        model = ir.Model(graph, ir_version=IR_VERSION)
        held = [initializer(graph, name, from_array(name, array)) for name, array in tensors.items()]
        graph.append(self.node(model, "linear", [inputs, *held], outputs, bits=3, block_size=32, outputs=70))
        return OpExample(model, {"x": x}, {"y": (x.astype(np.float64) @ w.T).astype(np.float32)})


def _activation(name: str, shape: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
