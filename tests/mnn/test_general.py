"""General graphs as plain `.mnn`: loaded from ONNX, quantised, run on the engine against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError, PlanError
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle import oracle
from edgec.compiler.sources.onnx.load_onnx import load_onnx
from edgec.targets.mnn.file.read_back import inspect
from edgec.targets.mnn.graph import ops
from edgec.targets.mnn.graph.emit_graph import emit_graph, random_feeds, relative_errors
from edgec.targets.mnn.run.engine import MnnGraph

from .conftest import quantized

MLP = """(float[n,32] x, float[64,32] w1, float[64] b1, float[64,10] w2, float[10] b2) => (float[n,10] y) {
    h = Gemm<transB = 1>(x, w1, b1)  a = Gelu(h)  o = MatMul(a, w2)  p = Add(o, b2)  y = Softmax(p) }"""
CONVNET = """(float[n,3,16,16] x, float[8,3,3,3] w1, float[8] g, float[8] b, float[8] m, float[8] variance,
    float[8,1,3,3] w2, float[16,8,1,1] w3, float[16] b3, float[5,16] w4) => (float[n,5] y) {
    c = Conv<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x, w1)
    d = BatchNormalization(c, g, b, m, variance)  e = Relu(d)
    f = Conv<kernel_shape = [3, 3], group = 8, pads = [1, 1, 1, 1]>(e, w2)  r = Add(f, e)
    h = Conv<kernel_shape = [1, 1]>(r, w3, b3)  i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(h)
    j = GlobalAveragePool(i)  k = Flatten(j)  y = Gemm<transB = 1>(k, w4) }"""
ENCODER = """(int64[n,s] ids, float[50,32] table, float[32] g1, float[32] b1, float[32,32] wq, float[32,32] wk,
    float[32,32] wv, float[32,32] wo, float[32] g2, float[32] b2, float[32,48] w1, float[48,32] w2)
    => (float[n,s,32] y) {
    x = Gather(table, ids)  a = LayerNormalization<axis = -1>(x, g1, b1)
    split = Constant<value_ints = [0, 0, 4, 8]>()  merge = Constant<value_ints = [0, 0, 32]>()
    q0 = MatMul(a, wq)  q1 = Reshape(q0, split)  q = Transpose<perm = [0, 2, 1, 3]>(q1)
    k0 = MatMul(a, wk)  k1 = Reshape(k0, split)  k = Transpose<perm = [0, 2, 3, 1]>(k1)
    v0 = MatMul(a, wv)  v1 = Reshape(v0, split)  v = Transpose<perm = [0, 2, 1, 3]>(v1)
    s0 = MatMul(q, k)  c = Constant<value_float = 0.35>()  s1 = Mul(s0, c)  p = Softmax<axis = -1>(s1)
    o0 = MatMul(p, v)  o1 = Transpose<perm = [0, 2, 1, 3]>(o0)  o2 = Reshape(o1, merge)  o = MatMul(o2, wo)
    r = Add(x, o)  d = LayerNormalization<axis = -1>(r, g2, b2)  f = MatMul(d, w1)  g = Gelu(f)  h = MatMul(g, w2)
    y = Add(r, h) }"""
GRAPHS = {"mlp": MLP, "convnet": CONVNET, "encoder": ENCODER}


def load(folder: Path, body: str, exact: bool = True) -> Module:
    """The textual graph with random weights in place of all inputs but the first."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 22]>\nagraph {body}')
    rng = np.random.default_rng(0)
    for value in list(proto.graph.input)[1:]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = rng.normal(size=shape) / (np.sqrt(shape[-1]) if len(shape) > 1 else 2)
        if value.name == "variance":
            array = np.abs(array) + 0.5
        array = array.astype(np.float16 if exact else np.float32).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        proto.graph.input.remove(value)
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type.lower()}_{index}"
    onnx.save(proto, folder / "net.onnx")
    return load_onnx("net", folder / "net.onnx", 0)


def error_of(module: Module, folder: Path, memory: str) -> float:
    graph = module.main.graph
    names = [[value.name or "" for value in values] for values in (graph.inputs, graph.outputs)]
    session = MnnGraph(folder / "net.mnn", *names, memory, 1, "MNN")
    worst = 0.0
    try:
        for size in (1, 4):
            feeds = random_feeds(graph, size, seed=7 + size)
            worst = max(worst, *relative_errors(session.run(feeds), oracle.run(module.main, feeds)).values())
    finally:
        session.close()
    return worst


@pytest.mark.parametrize("how", [None, {"weights": "int8", "block": "channel"}, {"weights": "int4", "block": 16}])
@pytest.mark.parametrize("name", GRAPHS)
def test_runs_as_the_oracle(name, how, tmp_path):
    module = load(tmp_path, GRAPHS[name])
    if how is not None:
        convolution = name == "convnet"
        table = tuple(node.name or "" for node in module.nodes("Gather"))
        if not (convolution and how["block"] == 16):
            quantized(module, **how, but=table)
    made = emit_graph(module, tmp_path / "out", "normal", 1)
    assert made.file == "net.mnn"
    assert max(made.errors.values()) < 2e-6
    # a batch normalisation folded into a convolution leaves weights that float16 rounds
    assert error_of(module, tmp_path / "out", "normal") < (2e-4 if name == "convnet" else 2e-6)
    formats = {row["format"] for row in inspect(tmp_path / "out" / "net.mnn")["weights"]}  # type: ignore[index]
    assert formats == {blob.describe() for blob in made.blobs.values()}


def test_low_memory_is_measured_as_it_ships(tmp_path):
    module = quantized(load(tmp_path, MLP), weights="int8", block="channel")
    made = emit_graph(module, tmp_path / "out", "low", 1)
    assert 1e-4 < made.errors["y"] < 0.05


def test_float_weights_are_rounded_to_halves_and_no_more(tmp_path):
    module = load(tmp_path, MLP, exact=False)
    made = emit_graph(module, tmp_path / "out", "normal", 1)
    assert max(made.errors.values()) < 2e-6  # of the module with halves
    assert 1e-6 < error_of(module, tmp_path / "out", "normal") < 1e-3  # of the module itself


REFUSED = {
    "no lowering for it": "(float[n,6] x) => (float[n,6] y) { i = Constant<value_int = 1>() y = CumSum(x, i) }",
    "only 2-D convolutions": "(float[n,3,8] x, float[4,3,3] w) => (float[n,4,6] y) { y = Conv(x, w) }",
    "an axis other than the last": "(float[n,3,8] x, float[3,8] w) => (float[n,3,8] y)"
    " { y = LayerNormalization<axis = 1>(x, w) }",
    "exact up to 2^24 only": "(int32[4] x) => (int32[4] y) { y = Add(x, x) }",
    "holds integers beyond 32 bits": "(int64[3] x) => (int64[4] y)"
    " { c = Constant<value_ints = [4000000000]>() y = Concat<axis = 0>(x, c) }",
    "its result `m` besides the first is read": "(float[1,8] x) => (float[1,8] y, bool[1,8] m) { y, m = Dropout(x) }",
    "is an input as it stands": "(float[2,8] x) => (float[2,8] y, float[2,8] x) { y = Relu(x) }",
    "an operand of rank 1": "(float[8] x, float[6,8] w) => (float[6] y) { y = MatMul(w, x) }",
    "(Shape)": "(float[n,8] x) => (int64[2] y) { y = Shape(x) }",
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_cannot_run_is_named(why, tmp_path):
    with pytest.raises(PlanError, match="E0710") as caught:
        emit_graph(load(tmp_path, REFUSED[why]), tmp_path / "out", "low", 1)
    assert why in caught.value.diagnostics[0].message


def test_the_refusal_as_it_reads(tmp_path, golden_error):
    module = load(tmp_path, "(float[n,6] x) => (float[n,6] y) { y = Hardmax(x) }")
    with pytest.raises(PlanError) as caught:
        emit_graph(module, tmp_path / "out", "low", 1)
    golden_error("E0710", caught.value)


def test_an_op_that_mnn_computes_wrong_is_found_and_named(tmp_path, golden_error, monkeypatch):
    monkeypatch.setitem(ops.UNARY, "Sin", "COS")
    body = """(float[n,40] x) => (float[n,40] y) {
        a = Exp(x) b = Mul(a, a) c = Mul(b, b) d = Mul(c, c) e = Abs(x) f = Sin(e) y = Add(f, d) }"""
    with pytest.raises(EngineError, match=r"computes `sin_5` \(Sin\) of `net` wrong") as caught:
        emit_graph(load(tmp_path, body), tmp_path / "out", "normal", 1)
    golden_error("E0711", caught.value, hide={caught.value.diagnostics[0].message.split("off by ")[1]: "X of range"})


def test_no_size_that_runs_is_said(tmp_path, golden_error):
    body = "(float[n,8] x, float[1031,8] w) => (float[m,8] y) { a = Concat<axis = 0>(x, x) y = Sub(a, w) }"
    with pytest.raises(PlanError) as caught:
        emit_graph(load(tmp_path, body), tmp_path / "out", "normal", 1)
    golden_error("E0712", caught.value)


RIGHT = {
    "names of its own": "(float[2,8] x, float[8,8] w, float[8,8] w2) => (float[2,8] z)"
    ' { y = MatMul(x, w) "y/rows" = MatMul(y, w2) z = Add("y/rows", "y/rows") }',
    "a constant to the left": "(float[8,4] x, float[6,8] w) => (float[6,4] y) { y = MatMul(w, x) }",
    "two matrices": "(float[n,8] x) => (float[n,n] y) { t = Transpose(x) y = MatMul(x, t) }",
    "a constant output": "(float[2,8] x, float[8] k) => (float[2,8] y, float[8] k) { y = Relu(x) }",
    "an index from the end": "(float[1,5,4] x) => (float[1,4] y)"
    " { i = Constant<value_int = -1>() y = Gather<axis = 1>(x, i) }",
    "indices from the end": "(int64[3] i, float[9,2] t) => (float[3,2] y) { y = Gather(t, i) }",
    "an index into an open axis": "(float[n,4] x) => (float[4] y) { i = Constant<value_int = -2>() y = Gather(x, i) }",
    "a kernel of seven": "(float[n,3,h,v] x, float[8,3,7,7] w) => (float[n,8,a,b] y) { y = Conv(x, w) }",
    "integers that are moved": "(int32[2,3] x) => (int32[3,2] y) { y = Transpose(x) }",
}


@pytest.mark.parametrize("what", RIGHT)
def test_is_right(what, tmp_path):
    module = load(tmp_path, RIGHT[what])
    made = emit_graph(module, tmp_path / "out", "normal", 1)
    assert max(made.errors.values()) < (1e-3 if "kernel" in what else 2e-6)  # Winograd


def test_negative_indices_are_read_from_the_end(tmp_path):
    emit_graph(load(tmp_path, RIGHT["indices from the end"]), tmp_path / "out", "normal", 1)
    session = MnnGraph(tmp_path / "out" / "net.mnn", ["i"], ["y"], "normal", 1, "MNN")
    table = load(tmp_path, RIGHT["indices from the end"]).main.graph.initializers["t"].const_value
    ids = np.array([-1, 0, -9])
    made = session.run({"i": ids})["y"]
    with pytest.raises(PlanError, match="holds 4000000000, and MNN's integers have 32 bits"):
        session.run({"i": np.array([1, 2, 4_000_000_000])})
    session.close()
    np.testing.assert_array_equal(made, np.asarray(table)[ids])


@pytest.mark.parametrize("scale", [1e-9, 3e-7])
def test_small_weights_stay_floats(scale, tmp_path):
    """float16 loses digits below 6e-5 and everything below 6e-8."""
    body = "(float[1,16] x, float[16,8] w, float[1] c) => (float[1,8] y) { a = MatMul(x, w) y = Mul(a, c) }"
    module = load(tmp_path, body)
    for name, factor in (("w", scale), ("c", 1 / scale)):
        value = module.main.graph.initializers[name]
        value.const_value = from_array(name, np.asarray(value.const_value) * np.float32(factor))
    made = emit_graph(module, tmp_path / "out", "normal", 1)
    assert [blob.describe() for blob in made.blobs.values()] == ["float32"]
    assert error_of(module, tmp_path / "out", "normal") < 2e-6
    assert "lose digits" in made.notes[0]
