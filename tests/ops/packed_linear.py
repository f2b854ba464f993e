"""A plug-in for tests: a linear whose int4 weight is two values to a byte, and the pass that puts it into graphs.

y[.., N] = x[.., K] @ w^T      w[n, k] = (nibble k of packed[n, K/2] - 8) * scale[n, k // B]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.api import Level, OpDefinition, OpExample, Pass, Tolerance

BODY = """PackedLinear <block_size: int = 32> (x, packed, scale) => (y)
{
    fifteen = Constant <value = uint8 {15}> ()
    four = Constant <value = uint8 {4}> ()
    eight = Constant <value_float = 8.0> ()
    last = Constant <value_ints = [-1]> ()
    block = Constant <value_int: int = @block_size> ()
    blocks = Reshape (block, last)
    low = BitwiseAnd (packed, fifteen)
    high = BitShift <direction = "RIGHT"> (packed, four)
    low_column = Unsqueeze (low, last)
    high_column = Unsqueeze (high, last)
    pairs = Concat <axis = -1> (low_column, high_column)
    floats = Cast <to = 1> (pairs)
    shifted = Sub (floats, eight)
    zero = Constant <value_ints = [0]> ()
    rows = Constant <value_ints = [0, -1]> ()
    flat = Reshape (shifted, rows)
    outputs_first = Concat <axis = 0> (zero, last, blocks)
    by_block = Reshape (flat, outputs_first)
    scales = Unsqueeze (scale, last)
    scaled = Mul (by_block, scales)
    weight = Reshape (scaled, rows)
    turned = Transpose <perm = [1, 0]> (weight)
    y = MatMul (x, turned)
}"""


class PackedLinear(OpDefinition):
    """int4 weights packed two to a byte, low nibble first, symmetric, a scale per block."""

    name = "PackedLinear"
    body: ClassVar[str] = BODY

    def as_weight_use(self, node):
        """The weight [N, K], unpacked row by row."""
        import ml_dtypes
        import numpy as np
        import onnx_ir as ir
        from edgec.compiler.ir.annotations import Transform
        from edgec.compiler.ir.linears import Linear, QuantizedWeight
        from edgec.compiler.ir.module import constant
        from edgec.compiler.ir.weights import derive

        packed, scale = constant(node.inputs[1]), constant(node.inputs[2])
        if packed is None or scale is None:
            return None
        (n, half), block = packed.dims, node.attributes.get_int("block_size", 32)

        def rows(start, stop):
            data = packed.rows(start, stop)
            made = np.stack([data & 15, data >> 4], axis=-1).reshape(stop - start, 2 * half)
            return (made.astype(np.int8) - 8).astype(ml_dtypes.int4)

        q = derive(packed.name, ir.DataType.INT4, (n, 2 * half), rows, packed, Transform.PACK, "unpacked")
        quant = QuantizedWeight(node, q, scale, None, block, 1)
        return Linear(node.name or "", "own", node, node.inputs[1], True, None, quant, None)

    def example(self):
        """16 outputs of 64 inputs in blocks of 16."""
        import numpy as np
        import onnx_ir as ir

        rng = np.random.default_rng(3)
        q, scale = rng.integers(-8, 8, (16, 64)), rng.uniform(0.5, 1.5, (16, 4)).astype(np.float32)
        x = rng.normal(size=(3, 64)).astype(np.float32)
        y = x.astype(np.float64) @ (q * np.repeat(scale, 16, axis=1)).T
        graph = ir.Graph(
            [_value("x", ir.DataType.FLOAT, (3, 64))], [_value("y", ir.DataType.FLOAT, (3, 16))], nodes=[],
            opset_imports={"": 24}, name="example",
        )  # fmt: skip
        model = ir.Model(graph, ir_version=11)
        constants = [_constant(graph, "packed", pack(q)), _constant(graph, "scale", scale)]
        graph.append(self.node(model, "linear", [graph.inputs[0], *constants], graph.outputs[0], block_size=16))
        return OpExample(model, {"x": x}, {"y": y.astype(np.float32)})


def pack(q):
    """int [N, K] of -8 .. 7 to uint8 [N, K/2]."""
    import numpy as np

    shifted = (q.astype(np.int8) + 8).astype(np.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


def _value(name, dtype, shape):
    import onnx_ir as ir

    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _constant(graph, name, array):
    from edgec.compiler.ir.module import initializer
    from edgec.compiler.ir.weights import from_array

    return initializer(graph, name, from_array(name, array))


@dataclass(frozen=True)
class PackLinears(Pass):
    """Lets symmetric int4 linears run as PackedLinear."""

    name = "pack_linears"
    takes = (Level.COMPRESSED,)

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(1e-4, "the sums are in another order")

    def run(self, module, scope):
        import onnx_ir as ir
        from edgec.compiler.ir.annotations import Transform
        from edgec.compiler.ir.linears import linears
        from edgec.compiler.ir.module import drop_unused_initializers, initializer
        from edgec.compiler.ir.weights import derive

        model, changes = module.main, 0
        for linear in list(linears(module)):
            quant = linear.quant
            if linear.kind != "matmul" or not scope.selects(linear.name) or quant is None or not quant.symmetric:
                continue
            n, k = linear.shape
            name, q = f"{linear.name}.packed", quant.q
            packed = derive(
                name, ir.DataType.UINT8, (n, k // 2), lambda a, b, q=q: pack(q.rows(a, b)), q, Transform.PACK, "packed"
            )
            scale = quant.node.inputs[1]
            old = linear.node.outputs[0]
            made = ir.Value(name=f"{old.name}.own", type=old.type, shape=old.shape)
            inputs = [linear.node.inputs[0], initializer(model.graph, name, packed), scale]
            own = PackedLinear().node(model, f"{linear.name}.own", inputs, made, block_size=quant.block)
            own.metadata_props.update(linear.node.metadata_props)
            model.graph.insert_before(linear.node, own)
            module.bypass(linear.node, made)
            own.name = linear.name
            changes += 1
        for node in reversed(list(model.graph)):
            if node.op_type in ("Transpose", "DequantizeLinear") and not any(module.readers(v) for v in node.outputs):
                model.graph.remove(node, safe=True)
        drop_unused_initializers(model.graph)
        return changes
