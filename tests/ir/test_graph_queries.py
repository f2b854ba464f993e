"""What depends on constants alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from edgec.compiler.ir.graph_queries import constant_nodes, is_constant
from edgec.compiler.ir.weights import from_array


def test_constants_are_followed_and_inputs_end_them() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    weight = ir.Value(name="w", const_value=from_array("w", np.ones(2, np.float32)))
    made = ir.node("Constant", [], attributes={"value_float": 2.0}, name="made")
    scaled = ir.node("Mul", [weight, made.outputs[0]], name="scaled")
    clipped = ir.node("Clip", [scaled.outputs[0], None, made.outputs[0]], name="clipped")  # an operand left out
    joined = ir.node("Add", [clipped.outputs[0], x], name="joined")
    after = ir.node("Relu", [joined.outputs[0]], name="after")
    found = constant_nodes([made, scaled, clipped, joined, after])
    assert found == {made, scaled, clipped}
    assert [is_constant(v, found) for v in (x, weight, clipped.outputs[0], joined.outputs[0])] == [
        False,
        True,
        True,
        False,
    ]


def test_a_deep_graph_is_walked_once() -> None:
    """A chain far deeper than Python's stack, each value read twice: 2^5000 paths lead to the constant."""
    value, nodes = ir.Value(name="w", const_value=from_array("w", np.ones(1, np.float32))), []
    for _ in range(5000):
        nodes.append(ir.node("Add", [value, value]))
        value = nodes[-1].outputs[0]
    assert constant_nodes(nodes) == set(nodes)
