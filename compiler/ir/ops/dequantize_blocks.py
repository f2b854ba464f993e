"""`ai.edgec::DequantizeBlocks`: a weight of unsigned integers whose blocks have a float scale and a float minimum.

    w[n, k] = q[n, k] * scale[n, k / B] + minimum[n, k / B]          q [N, K]   scale, minimum [N, K/B] float32

GGUF's Q4_1 is stored so. DequantizeLinear cannot say it: its zero point is an integer.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..linears import DEQUANTIZE_BLOCKS
from ..module import constant, initializer
from ..opset import IR_VERSION, OPSET
from ..weights import from_array
from .op_definition import Cost, OpDefinition, OpExample

_BODY = f"""{DEQUANTIZE_BLOCKS} <block_size: int = 32> (q, scale, minimum) => (w)
{{
    product = DequantizeLinear <axis = 1, block_size: int = @block_size> (q, scale)
    zero = Constant <value_ints = [0]> ()
    last = Constant <value_ints = [-1]> ()
    size = Constant <value_int: int = @block_size> ()
    block = Reshape (size, last)
    by_block = Concat <axis = 0> (zero, last, block)
    blocks = Reshape (product, by_block)
    low = Unsqueeze (minimum, last)
    raised = Add (blocks, low)
    rows = Concat <axis = 0> (zero, last)
    w = Reshape (raised, rows)
}}"""


class DequantizeBlocks(OpDefinition):
    """Integers times a scale plus a minimum, both per block of inputs."""

    name: ClassVar[str] = DEQUANTIZE_BLOCKS
    body: ClassVar[str] = _BODY

    def cost(self, node: ir.Node, rows: int) -> Cost:
        """What making the weight once takes, however many rows it then multiplies."""
        held = [weight for weight in map(constant, node.inputs) if weight is not None]
        return Cost(sum(weight.nbytes for weight in held), 2 * held[0].size)

    def example(self) -> OpExample:
        """Eight rows of 64 inputs in blocks of 16."""
        rng = np.random.default_rng(4)
        q = rng.integers(0, 16, (8, 64)).astype(ir.DataType.UINT4.numpy())
        scale, minimum = (rng.normal(size=(8, 4)).astype(np.float32) for _ in range(2))
        spread = (np.repeat(part.astype(np.float64), 16, axis=1) for part in (scale, minimum))
        w = q.astype(np.float64) * next(spread) + next(spread)
        out = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((8, 64)))
        graph = ir.Graph([], [out], nodes=[], opset_imports={"": OPSET}, name="example")
        model = ir.Model(graph, ir_version=IR_VERSION)
        tensors = {"q": q, "scale": scale, "minimum": minimum}
        inputs = [initializer(graph, name, from_array(name, array)) for name, array in tensors.items()]
        graph.append(self.node(model, "weight", inputs, out, block_size=16))
        return OpExample(model, {}, {"w": w.astype(np.float32)})
