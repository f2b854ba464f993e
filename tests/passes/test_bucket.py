"""bucket: static graphs that compute the same bits, refer to the same weights, and refuse what makes no sense."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError, Span
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.pipeline.pass_check import from_text, run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.bucket import Bucket
from edgec.passes.quantize import Quantize

SCOPE = Scope(origin=Span("plan.edge", 5, 3, 5, 9))


@pytest.mark.parametrize("model", ["draft", "target"])
@pytest.mark.parametrize("quantized", [False, True])
def test_the_same_bits(model: str, quantized: bool, request: pytest.FixtureRequest) -> None:
    module: Module = request.getfixturevalue(model)
    if quantized:
        Quantize(weights="int4").run(module, Scope())
        module.level = Level.COMPRESSED
    result = run_and_check(Bucket(tokens=(1, 4), context=(16, 48)), module, seeds=[0])
    assert list(result.module.graphs) == ["t1_c16", "t4_c16", "t1_c48", "t4_c48"]
    assert set(result.errors.values()) == {0.0}


def test_every_shape_is_a_number(draft: Module) -> None:
    Bucket(tokens=(3,), context=(16,)).run(draft, Scope())
    graph = draft.graphs["t3_c16"].graph
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    assert all(value.shape is not None and value.shape.is_static() for value in values)
    shapes = {value.name: list(value.shape or ()) for value in (*graph.inputs, *graph.outputs)}
    assert shapes["input_ids"] == [1, 3]
    assert shapes["attention_mask"] == [1, 1, 3, 16]
    assert shapes["past_key_0_in"] == [1, 2, 13, 32]
    assert shapes["past_value_1_out"] == [1, 2, 3, 32]
    assert shapes["logits"] == [1, 3, 2048]


def test_weights_are_the_same_objects(draft: Module) -> None:
    Bucket(tokens=(1, 4), context=(16,)).run(draft, Scope())
    one, four = (model.graph.initializers for model in draft.graphs.values())
    assert one.keys() == four.keys()
    assert all(one[name].const_value is four[name].const_value for name in one)


def test_shapes_that_a_pass_left_out_are_inferred(draft: Module) -> None:
    graph = draft.main.graph
    node = next(node for node in graph if node.name == "norm")
    extra = ir.node("Relu", [node.outputs[0]], name="extra")
    node.outputs[0].replace_all_uses_with(extra.outputs[0])
    extra.replace_input_with(0, node.outputs[0])
    graph.insert_after(node, extra)
    extra.outputs[0].name = "extra.out"
    assert extra.outputs[0].shape is None
    Bucket(tokens=(3,), context=(16,)).run(draft, Scope())
    made = draft.graphs["t3_c16"]
    found = next(node for node in made.graph if node.name == "extra").outputs[0]
    assert list(found.shape or ()) == [1, 3, 128]
    assert set(made.graph.initializers) == set(graph.initializers)  # inference took none away


def test_a_shape_that_cannot_be_inferred(draft: Module, golden_error) -> None:
    graph = draft.main.graph
    node = next(node for node in graph if node.name == "norm")
    extra = ir.node("Mystery", [node.outputs[0]], name="mystery", domain="somewhere")
    node.outputs[0].replace_all_uses_with(extra.outputs[0])
    extra.replace_input_with(0, node.outputs[0])
    extra.outputs[0].name = "mystery.out"
    graph.insert_after(node, extra)
    graph.opset_imports["somewhere"] = 1
    with pytest.raises(EdgecError) as raised:
        Bucket(tokens=(3,), context=(16,)).run(draft, SCOPE)
    golden_error("E0418", raised.value)


def test_no_room_for_a_cache_is_skipped_with_a_reason(draft: Module) -> None:
    scope = Scope()
    assert Bucket(tokens=(1, 16), context=(16, 32)).run(draft, scope) == 3
    assert [(skip.node, skip.reason) for skip in scope.skips] == [
        ("t16_c16", "16 tokens leave no room for a cache in 16 positions")
    ]


def test_no_decoder(golden_error) -> None:
    module = from_text('<ir_version: 10, opset_import: ["" : 21]> m (float[B,4] x) => (float[B,4] y) { y = Relu(x) }')
    with pytest.raises(EdgecError) as raised:
        Bucket(tokens=(1,), context=(16,)).run(module, SCOPE)
    golden_error("E0407", raised.value)


def test_longer_than_the_context(draft: Module, golden_error) -> None:
    with pytest.raises(EdgecError) as raised:
        Bucket(tokens=(1,), context=(512, 1024)).run(draft, SCOPE)
    golden_error("E0408", raised.value)


def test_twice(draft: Module, golden_error) -> None:
    Bucket(tokens=(1,), context=(16,)).run(draft, Scope())
    draft.level = Level.STATIC
    assert Bucket(tokens=(1,), context=(16,)).run(draft, SCOPE) == 0
    with pytest.raises(EdgecError) as raised:
        Bucket(tokens=(1, 2), context=(16,)).run(draft, SCOPE)
    golden_error("E0409", raised.value)


@pytest.mark.parametrize(
    ("tokens", "context", "field", "message"),
    [
        ((4, 1), (16,), "tokens", "has to be in rising order without repetitions: [1, 4]"),
        ((1, 1), (16,), "tokens", "has to be in rising order without repetitions: [1]"),
        ((1,), (32, 16), "context", "[16, 32]"),
        ((), (16,), "tokens", "is empty"),
        ((32, 64), (16, 32), "context", "no context is longer than 32 or 64 tokens"),
        ((1, 64), (16, 32), "context", "no context is longer than 64 tokens"),
    ],
)
def test_lists_that_make_no_sense(tokens: tuple, context: tuple, field: str, message: str) -> None:
    problems = Bucket(tokens=tokens, context=context).validate()
    assert any(isinstance(p, tuple) and p[0] == field and message in p[1] for p in problems)


def test_lists_that_make_sense() -> None:
    assert Bucket(tokens=(1, 4, 128), context=(64, 512)).validate() == []
