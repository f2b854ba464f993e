"""Weights out of a graph as inputs and back: nothing read, order and objects as before, renames allowed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from edgec.compiler.ir.weightless import give_weights, take_weights
from edgec.compiler.ir.weights import Weight


def unread(name: str, *dims: int) -> Weight:
    """A float weight that fails when it is read."""

    def rows(_first: int, _last: int) -> np.ndarray:
        raise AssertionError(f"`{name}` was read")

    return Weight(name, ir.DataType.FLOAT, dims, rows, "a test")


def graph_of(*weights: Weight) -> ir.Graph:
    """A graph with one input, `x`, that adds every weight to it."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([32]))
    held = [ir.Value(name=w.name, const_value=w) for w in weights]
    total = ir.node("Sum", [x, *held])
    return ir.Graph([x], total.outputs, nodes=[total], initializers=held, opset_imports={"": 24})


def test_big_weights_become_typed_inputs_and_come_back_in_order() -> None:
    big, small, last = unread("big", 257), unread("small", 256), unread("last", 32, 32)
    graph = graph_of(big, small, last)
    taken = take_weights(graph)
    assert list(taken.items()) == [("big", big), ("last", last)]
    assert list(graph.initializers) == ["small"]  # 1,024 bytes stay
    assert [(v.name, v.dtype, v.shape) for v in graph.inputs[1:]] == [
        ("big", ir.DataType.FLOAT, ir.Shape([257])),
        ("last", ir.DataType.FLOAT, ir.Shape([32, 32])),
    ]
    give_weights(graph, taken)
    assert [v.name for v in graph.inputs] == ["x"]
    assert {name: v.const_value for name, v in graph.initializers.items()} == {"small": small, "big": big, "last": last}


def test_a_caller_chooses_which() -> None:
    graph = graph_of(unread("a", 1), unread("b", 512))
    assert list(take_weights(graph, lambda tensor: tensor.name == "a")) == ["a"]
    assert list(graph.initializers) == ["b"]


def test_a_default_value_is_an_input_once() -> None:
    graph = graph_of(unread("big", 512))
    graph.inputs.append(graph.initializers["big"])
    taken = take_weights(graph)
    assert [v.name for v in graph.inputs] == ["x", "big"]
    give_weights(graph, taken)
    assert [v.name for v in graph.inputs] == ["x"]


def test_the_graph_they_return_to_is_another_which_lost_one() -> None:
    weights = [unread("c", 512), unread("b", 512), unread("a", 512)]
    taken = take_weights(graph_of(*weights))
    other = graph_of(unread("a", 512), unread("c", 512))
    take_weights(other)
    give_weights(other, taken)
    assert [(name, v.const_value) for name, v in other.initializers.items()] == [("c", weights[0]), ("a", weights[2])]
