"""The class of a use: every attribute of the op is in it, whether anyone thought of it or not."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.emit.conformance.legality import Legality
from edgec.compiler.emit.conformance.op_class import ClassRule, Use
from edgec.compiler.emit.conformance.table import Row
from edgec.compiler.ir.attributes import attributes, defaults
from edgec.compiler.ir.opset import OPSET

RULE = ClassRule(frozenset({"size", "alpha", "strides"}), {"Softmax": {"axis": "always the last"}})


def node(op, *shapes, **stated):
    inputs = [ir.Value(name=f"x{i}", shape=ir.Shape(shape)) for i, shape in enumerate(shapes)]
    return ir.Node("", op, inputs, ir.convenience.convert_attributes(stated), name="op")


def test_what_a_node_leaves_out_is_filled_in():
    found = attributes(node("AveragePool", (1, 3, 8, 8), kernel_shape=[2, 2], ceil_mode=1))
    assert found == {
        "auto_pad": "NOTSET", "ceil_mode": 1, "count_include_pad": 0, "dilations": (1, 1), "kernel_shape": (2, 2),
        "pads": (0, 0, 0, 0), "strides": (1, 1),
    }  # fmt: skip
    assert attributes(node("Conv", (1, 3, 8, 8), (4, 3, 5, 7)))["kernel_shape"] == (5, 7)
    assert defaults(node("Conv", (1, 3, 8, 8), (4, 3, 5, 7)))["kernel_shape"] is None
    assert attributes(node("LeakyRelu", (2,)))["alpha"] == 0.01


def test_a_default_that_is_stated_and_one_that_is_not_are_one_class():
    bare, stated = node("Gelu", (2,)), node("Gelu", (2,), approximate="none")
    assert RULE.shape(bare, {}) == RULE.shape(stated, {}) == ()
    assert RULE.shape(node("Gelu", (2,), approximate="tanh"), {}) == (("approximate", "tanh"),)


def test_numbers_are_always_there_and_words_where_they_differ():
    assert RULE.shape(node("LeakyRelu", (2,)), {"size": 2}) == (("alpha", 0.01), ("size", 2))
    pool = node("MaxPool", (1, 1, 8, 8), kernel_shape=[3, 3], pads=[0, 0, 1, 1])
    assert dict(RULE.shape(pool, {})) == {
        "kernel_shape": "3x3", "pads": "0x0x1x1", "strides.0": 1, "strides.1": 1,
    }  # fmt: skip


def test_a_settled_attribute_is_no_part_of_it_and_a_given_one_counts_as_emitted():
    assert RULE.shape(node("Softmax", (2, 2), axis=0), {}) == ()
    pool = node("MaxPool", (1, 1, 8, 8), kernel_shape=[2, 2], ceil_mode=1)
    assert dict(RULE.shape(pool, {}))["ceil_mode"] == 1
    assert "ceil_mode" not in dict(RULE.shape(pool, {}, {"ceil_mode": 0}))


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool", "Conv", "ReduceMean", "Gelu", "Attention", "Resize"])
def test_an_attribute_nobody_thought_of_is_a_class_of_its_own(op):
    """Whatever attribute of the schema is set: the rows of the op as it usually is do not speak for it."""
    plain = node(op, (1, 4, 8, 8), (4, 4, 3, 3), **({"kernel_shape": [3, 3]} if "Pool" in op else {}))
    rule = ClassRule(frozenset({"size"}), {})
    rows = [Row("here", "it", dict(rule.shape(plain, {"size": size})), "right") for size in (1, 9)]
    judge = Legality("here", rows, rule)
    assert judge.problem(Use("it", rule.shape(plain, {"size": 5}), "op")) is None
    for name, value in other_values(plain).items():
        changed = node(op, (1, 4, 8, 8), (4, 4, 3, 3), **{**stated(plain), name: value})
        use = Use("it", rule.shape(changed, {"size": 5}), "op")
        assert "was never run on here in this form" in (judge.problem(use) or ""), name


def stated(plain):
    return {name: attribute.value for name, attribute in plain.attributes.items()}


def other_values(plain):
    """Each attribute of the op with a value that is not what `plain` has."""
    now = attributes(plain)
    kinds = onnx.defs.get_schema(plain.op_type, OPSET).attributes
    made = {
        "INT": lambda value: (value or 0) + 1,
        "INTS": lambda value: [item + 1 for item in value or (1, 1)],
        "FLOAT": lambda value: (value or 0.0) + 0.5,
        "STRING": lambda value: f"not_{value}",
    }
    kind = {name: str(schema.type).rpartition(".")[2] for name, schema in kinds.items()}
    return {name: made[kind[name]](now[name]) for name in kinds if kind[name] in made}
