"""Lowering: what becomes of each op, the packed bytes, what is shared, and every refusal with its message."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.diagnostics.warn import collected
from edgec.compiler.emit.conformance.measure import Bounds, verdict_of
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.ir.save import save_graphs
from edgec.targets.qnn.conformance.one_op_graphs import attention, embedding, matmul, nbits, norm, rotary
from edgec.targets.qnn.lower.builder import WeightStore
from edgec.targets.qnn.lower.feeds import to_target
from edgec.targets.qnn.lower.lower_graphs import lower

CACHED = {"cache": True, "mask": True}
CASES = {
    "int4": lambda: nbits(4, 64, 48, 4, 32, True),
    "int4 asymmetric, odd blocks": lambda: nbits(3, 96, 16, 4, 32, False),
    "int8 per channel": lambda: nbits(1, 64, 16, 8, "channel", True),
    "uint8": lambda: nbits(2, 64, 16, 8, 16, False),
    "float": lambda: matmul(5, 48, 24),
    "attention": lambda: attention(4, 32, 6, 2, 32, **CACHED),
    "attention without a cache": lambda: attention(8, 8, 4, 4, 32, cache=False, mask=True),
    "rotary": lambda: rotary(4, 3, 64, True),
    "rotary of a part": lambda: rotary(4, 2, 64, False),
    "norm of heads": lambda: norm("RMSNormalization", 8, 32, 32),
    "embedding": lambda: embedding(4, 50, 16),
}


@pytest.mark.parametrize("name", CASES)
def test_the_target_graph_runs_in_onnx_runtime_and_agrees(name, tmp_path):
    model, feeds = CASES[name]()
    target = lower({"g": model})["g"].model
    save_graphs({"static": model, "target": target}, tmp_path, "weights.data")
    outputs = [value.name for value in model.graph.outputs]
    expected = session(str(tmp_path / "static.onnx")).run(outputs, feeds)
    specs = [(v.name, tuple(v.shape), v.dtype.numpy()) for v in target.graph.inputs]
    got = session(str(tmp_path / "target.onnx")).run(outputs, to_target(specs, feeds, {}))
    outcome = [dict(zip(outputs, values, strict=True)) for values in (got, expected)]
    verdict, figures = verdict_of(*outcome, Bounds(0.01, 0.9995))
    assert verdict == "right", figures


def test_integers_and_scales_reach_the_engine_unchanged():
    model, _ = nbits(2, 64, 8, 4, 16, False)
    given_ = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    graph = lower({"g": model})["g"].model.graph
    made = {name: value.const_value.numpy() for name, value in graph.initializers.items()}
    packed = made["op.weight.nbits"].reshape(8, -1)
    q = np.stack([packed & 15, packed >> 4], axis=-1).reshape(8, 64)
    assert np.array_equal(q, given_["op.weight"].astype(np.uint8))
    assert np.array_equal(made["op.weight.nbits_scale"].astype(np.float32), given_["op.weight_scale"])


def test_buckets_share_every_weight(emitted_graphs):
    lowered = lower(emitted_graphs, WeightStore())
    small, large = (lowered[name].model.graph.initializers for name in ("t1_c256", "t64_c256"))
    shared = [name for name in small if not name.startswith("const.")]
    assert len(shared) > 40
    for name in shared:
        assert small[name].const_value is large[name].const_value, name


@pytest.fixture(scope="module")
def emitted_graphs(stage):
    return dict(stage("target", "pycode-qwen3", 256, Level.STATIC, (1, 64)).graphs)


def test_the_interface_is_genies(emitted_graphs):
    lowered = lower(emitted_graphs)["t64_c256"]
    graph = lowered.model.graph
    shapes = {value.name: tuple(value.shape) for value in [*graph.inputs, *graph.outputs]}
    assert shapes["input_ids"] == (1, 64)
    assert shapes["attention_mask"] == (1, 1, 64, 256)
    assert shapes["position_ids_cos"] == shapes["position_ids_sin"] == (1, 1, 64, 16)
    assert shapes["past_key_5_in"] == (2, 1, 32, 192)
    assert shapes["past_value_5_in"] == (2, 1, 192, 32)
    assert shapes["past_key_5_out"] == (2, 1, 32, 64)
    assert shapes["past_value_5_out"] == (2, 1, 64, 32)
    assert shapes["logits"] == (1, 64, 2048)
    assert "position_ids" not in shapes
    assert {value.dtype for value in [*graph.inputs[1:], *graph.outputs]} == {ir.DataType.FLOAT16}


def quantised_embedding() -> ir.Model:
    model, _ = embedding(4, 64, 32)
    graph = model.graph
    gather = next(iter(graph))
    from edgec.compiler.ir.weights import from_array

    def const(name, array):
        weight = from_array(name, array)
        value = ir.Value(name=name, type=ir.TensorType(weight.dtype), shape=weight.shape, const_value=weight)
        graph.register_initializer(value)
        return value

    q, scale = const("q", np.ones((64, 32), np.int8)), const("s", np.ones(64, np.float32))
    table = ir.node("DequantizeLinear", [q, scale], {"axis": 0}, name="op.dequant")
    graph.insert_before(gather, table)
    gather.replace_input_with(0, table.outputs[0])
    gather.name = "embed_tokens"
    return model


ONE = "one (float[{shape}] x) => (float[{out}] y) {init} {{ [layers__0__mlp__act] y = {op} }}"


def one(static, op, shape="1,4,16", out=None, init=""):
    return static(ONE.format(shape=shape, out=out or shape, op=op, init=init))


REFUSALS = {
    "E0621": lambda static: one(static, "CumSum (x, axis)", init="<int64 axis = {1}>"),
    "E0630": lambda static: one(static, "Mul (x, big)", init="<float[16] big = {" + ", ".join(["1e6"] * 16) + "}>"),
    "E0631": lambda static: one(static, "Sigmoid (x)", shape="1,S,16"),
    "E0634": lambda static: one(static, "Softmax <axis = 1> (x)"),
    "E0635": lambda static: _block_eight(),
    "E0636": lambda static: quantised_embedding(),
}


def _block_eight() -> ir.Model:
    model, _ = nbits(4, 64, 16, 4, 8, True)
    for node in model.graph:
        node.name = (node.name or "").replace("op", "layers.0.mlp.up_proj")
    return model


NO_FORM = {
    "is an input as it stands": "g (float[1,4] x) => (float[1,4] y, float[1,4] x) { [a] y = Relu (x) }",
    "is a constant as it stands": "g (float[1,4] x) => (float[1,4] y, float[4] k)"
    " <float[4] k = {1, 2, 3, 4}> { [a] y = Relu (x) }",
    "Div of int32 has no lowering": "g (int32[1,4] x) => (int32[1,4] y)"
    " <int32[4] k = {2, 2, 2, 2}> { [a] y = Div (x, k) }",
    "fp16 holds nothing": "g (float[1,2] x) => (float[2,2] y)"
    " <float[2,2] w = {1e-9, 2e-9, 0, 0}> { [a] y = Mul (x, w) }",
    "fp16 loses digits": "g (float[1,2] x) => (float[2,2] y)"
    " <float[2,2] w = {1e-6, 2e-6, 0, 0}> { [a] y = Mul (x, w) }",
}


@pytest.mark.parametrize("why", NO_FORM)
def test_what_has_no_form_is_refused_by_name(why, static):
    with pytest.raises(PlanError) as raised:
        lower({"g": static(NO_FORM[why])}, WeightStore())
    assert why in raised.value.diagnostics[0].message


def test_an_input_that_nothing_reads_is_left_out(static):
    body = "g (float[1,4] x, float[1,4] u) => (float[1,4] y) { [a] y = Relu (x) }"
    graph = lower({"g": static(body)}, WeightStore())["g"].model.graph
    assert [value.name for value in graph.inputs] == ["x"]


def test_a_gain_that_fp16_loses_is_a_warning(static, golden_error):
    body = "g (float[1,2] x) => (float[1,2] y) <float[2] w = {1e-9, 2e-9}> { [a] y = Mul (x, w) }"
    with collected() as said, pytest.warns(Warning, match="W0630"):
        lower({"g": static(body)}, WeightStore())
    golden_error("W0630", said)


@pytest.mark.parametrize("code", REFUSALS)
def test_refuses_with_the_reason(code, static, golden_error):
    model = REFUSALS[code](static)
    with pytest.raises(PlanError) as caught:
        lower({"g": model})
    golden_error(code, caught.value)


def test_a_constant_made_by_an_unknown_op_is_refused(static, golden_error):
    text = "one (float[1,4] x) => (float[1,4] y) <float[4] a = {1, 2, 3, 4}> { b = Erf (a) y = Mul (x, b) }"
    with pytest.raises(PlanError) as caught:
        lower({"g": static(text)})
    golden_error("E0632", caught.value)


def test_two_rotary_embeddings_are_refused(static, golden_error):
    text = """
    two (float[1,2,4,32] x, float[1,4,16] c1, float[1,4,16] s1, float[1,4,16] c2, float[1,4,16] s2) =>
        (float[1,2,4,32] y)
    { [q__rope] a = RotaryEmbedding (x, c1, s1)  [k__rope] y = RotaryEmbedding (a, c2, s2) }
    """
    with pytest.raises(PlanError) as caught:
        lower({"g": static(text)})
    golden_error("E0633", caught.value)


def test_every_missing_op_is_named_in_one_go(static):
    text = "two (float[1,4] x) => (float[1,4] y) { [a] u = Erf (x)  [b] v = Sin (u)  [c] y = Sigmoid (v) }"
    with pytest.raises(PlanError) as caught:
        lower({"g": static(text)})
    assert [d.message for d in caught.value.diagnostics] == [
        "`a`: the qnn target has no lowering for `Erf`",
        "`b`: the qnn target has no lowering for `Sin`",
    ]
