"""The canonical form: what becomes a constant, what does not, and that the graph computes what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.oracle.compare import random_feeds
from edgec.compiler.oracle.oracle import run
from edgec.compiler.sources.onnx.load_onnx import load_onnx

FOLDED = {  # graph -> the ops that are left
    "(float[2,3,4] x) => (float[2,12] y) { s = Shape(x) i = Constant<value_int = 0>() n = Gather(s, i)"
    " a = Constant<value_ints = [0]>() u = Unsqueeze(n, a) m = Constant<value_ints = [-1]>() t = Concat<axis = 0>(u, m)"
    " y = Reshape(x, t) }": ["Reshape"],
    "(float[n,3,4] x) => (float[n,12] y) { s = Shape(x) i = Constant<value_ints = [1, 2]>() d = Gather(s, i)"
    " a = Constant<value_ints = [0]>() p = ReduceProd(d, a) m = Constant<value_ints = [-1]>()"
    " t = Concat<axis = 0>(m, p) y = Reshape(x, t) }": ["Reshape"],
    "(float[1,4] x) => (float[1,4] y) { a = Identity(x) b = Dropout(a) y = Relu(b) }": ["Relu"],
    "(float[2,3] x) => (float[6] y) { s = Constant<value_ints = [6]>() y = Reshape<allowzero = 1>(x, s) }": ["Reshape"],
    "(float[1,2,9,8] x) => (float[1,4,5,4] y) { s = Constant<value_ints = [4, 2, 3, 3]>()"
    ' w = ConstantOfShape<value = float[1] {0.25}>(s) y = Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w) }': [
        "Conv"
    ],
    "(float[1,2,5,4] x) => (float[1,3,10,8] y) { s = Constant<value_ints = [2, 3, 3, 3]>()"
    ' w = ConstantOfShape<value = float[1] {0.25}>(s) y = ConvTranspose<auto_pad = "SAME_UPPER", strides = [2, 2]>'
    "(x, w) }": ["ConvTranspose"],
    "(float[1,2,5,5] x) => (float[1,3,3,3] y) <float[3] a = {1, 2, -3}, float[3] b = {0, 1, 2}, float[3] m = {4, 5, 6},"
    " float[3] v = {1, 4, 9}> { s = Constant<value_ints = [3, 2, 3, 3]>()"
    " w = ConstantOfShape<value = float[1] {0.5}>(s) c = Conv(x, w) y = BatchNormalization(c, a, b, m, v) }": ["Conv"],
    "(float[2,2] x) => (float[2,3] y) <float[2,3] w = {1, 2, 3, 4, 5, 6}, float[3] c = {1, 1, 2},"
    " float[3] a = {1, 2, -3}, float[3] b = {0, 1, 2}, float[3] m = {4, 5, 6}, float[3] v = {1, 4, 9}> {"
    " g = Gemm(x, w, c) n = BatchNormalization<epsilon = 0.5>(g, a, b, m, v) y = Relu(n) }": ["Gemm", "Relu"],
    "(float[1,2,4] x) => (float[1,2,4] y) <float[2] a = {1, -2}, float[2] b = {3, 4}, float[2] m = {0, 1},"
    " float[2] v = {1, 4}> { r = Relu(x) y = BatchNormalization(r, a, b, m, v) }": ["Relu", "Mul", "Add"],
    "(float[2,2] x) => (float[2,2] y) <bool c = {1}> { r = Relu(x) y = If (c) <"
    " then_branch = t () => (float[2,2] p) { r2 = Neg(r) p = Exp(r2) },"
    " else_branch = e () => (float[2,2] p) { p = Relu(r) }> }": ["Relu", "Neg", "Exp"],
    "(float[2,2] x) => (float[2,2] y) <bool c = {0}> { y = If (c) <"
    " then_branch = t () => (float[2,2] p) { p = Neg(x) },"
    " else_branch = e () => (float[2,2] p) { p = Identity(x) }> }": ["Identity"],
    "(float[2,2] x) => (float[2,2] y) { a = Cast<to = 1>(x) b = Concat<axis = 0>(a) y = Relu(b) }": ["Relu"],
}
LEFT = {
    "(float[n,4] x) => (int64[2] y) { y = Shape(x) }": ["Shape"],
    "(float[2,4] x) => (float[2,3] y) <int8[4,3] q = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float s = {0.5}>"
    " { w = DequantizeLinear(q, s) y = MatMul(x, w) }": ["DequantizeLinear", "MatMul"],
    "(float[2,4] x) => (float[2,4] y) { y = Identity(x) }": ["Identity"],
}


def loaded(folder: Path, body: str, opset: int = 20) -> Module:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\nagraph {body}')
    onnx.save(proto, folder / "m.onnx")
    module = load_onnx("m", folder / "m.onnx", 0)
    assert violations(module) == []
    return module


@pytest.mark.parametrize(("body", "ops"), [*FOLDED.items(), *LEFT.items()])
def test_what_is_left(body: str, ops: list[str], tmp_path: Path) -> None:
    module = loaded(tmp_path, body)
    assert [node.op_type for node in module.main.graph] == ops
    feeds = random_feeds(module.main.graph)
    (expected,) = session(str(tmp_path / "m.onnx")).run(None, feeds)
    np.testing.assert_allclose(run(module.main, feeds)["y"], expected, rtol=1e-6, atol=1e-6)


def test_the_upgrade_of_a_softmax_leaves_no_shape(tmp_path: Path) -> None:
    module = loaded(tmp_path, "(float[1,16,1,1] x) => (float[1,16,1,1] y) { y = Softmax<axis = 1>(x) }", 9)
    assert "Shape" not in {node.op_type for node in module.main.graph}


def test_a_constant_of_any_size_is_never_held(tmp_path: Path) -> None:
    body = """(int64[1] x) => (float[1,65536] y) {
        s = Constant<value_ints = [1048576, 65536]>() w = ConstantOfShape(s) y = Gather(w, x) }"""
    module = loaded(tmp_path, body)
    weight = module.constant(module.main.graph.initializers["w"])
    assert weight is not None
    assert weight.dims == (1048576, 65536)
    assert weight.rows(7, 9).shape == (2, 65536)


def test_what_would_be_large_is_not_folded(tmp_path: Path) -> None:
    body = """(float[1] x) => (float[n,m] y) {
        s = Constant<value_ints = [4096, 4096]>() o = Constant<value_float = 1.0>() e = Expand(o, s) y = Mul(e, x) }"""
    assert [node.op_type for node in loaded(tmp_path, body).main.graph] == ["Expand", "Mul"]


@pytest.mark.parametrize(
    "body",
    [
        "(float[2,3] x) => (float[2,3] y) <int64[3] a = {-7, 7, -1}, int64 b = {2}> "
        "{ q = Div(a, b) f = Cast<to = 1>(q) y = Add(x, f) }",
        "(float[1] x) => (float[2,2,1] y) <float[2,2,2] a = {1, 2, 3, 4, 5, 6, 7, 9}>"
        " { g = GlobalMaxPool(a) y = Add(g, x) }",
        "(float[1] x) => (float[1,1,3,3] y) <float[1,1,2,2] a = {1, 2, 3, 4}, float[4] s = {1, 1, 1.6, 1.6}>"
        ' { r = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(a, , s) y = Add(r, x) }',
        "(float[1] x) => (float[2,4] y) <float[2,4] a = {1, 2, 3, 4, 5, 6, 7, 9}, float[4] s = {1, 2, 1, 2},"
        " float[4] b = {0, 1, 0, 1}> { g = LayerNormalization<axis = -1>(a, s, b) y = Add(g, x) }",
    ],
)
def test_a_constant_is_what_onnx_runtime_makes(body: str, tmp_path: Path) -> None:
    module = loaded(tmp_path, body)
    assert [node.op_type for node in module.main.graph] == ["Add"]
    feeds = random_feeds(module.main.graph)
    (expected,) = session(str(tmp_path / "m.onnx")).run(None, feeds)
    np.testing.assert_allclose(run(module.main, feeds)["y"], expected, rtol=1e-6, atol=1e-6)


def test_a_sequence_is_no_constant(tmp_path: Path) -> None:
    body = """(float[3] x) => (float[3] y) <float[3] a = {1, 2, 3}, float[3] b = {4, 5, 6}> {
        s = SequenceConstruct(a, b) i = Constant<value_int = 1>() c = SequenceAt(s, i) y = Add(c, x) }"""
    module = loaded(tmp_path, body)
    made = run(module.main, {"x": np.ones(3, np.float32)})
    assert made["y"].tolist() == [5, 6, 7]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_a_dilated_pooling_is_padded_as_onnx_runtime_pads_it(op: str, auto: str, tmp_path: Path) -> None:
    """As if it were not dilated: 8 places of 9, where ONNX's inference says 9."""
    body = f"""(float[1,2,9,10] x) => (float[1,2,a,b] y) {{
        p = {op}<auto_pad = "{auto}", kernel_shape = [2, 3], dilations = [2, 2]>(x) y = Relu(p) }}"""
    module = loaded(tmp_path, body, 19)
    x = np.random.default_rng(0).normal(size=(1, 2, 9, 10)).astype(np.float32)
    made, right = run(module.main, {"x": x})["y"], session(str(tmp_path / "m.onnx")).run(None, {"x": x})[0]
    assert list(module.main.graph.outputs[0].shape or ()) == list(right.shape)
    np.testing.assert_allclose(made, right, atol=1e-6)


def test_a_transposed_convolution_with_more_behind_it_has_the_size_that_it_makes(tmp_path: Path) -> None:
    body = """(float[1,2,4,4] x) => (float[1,3,a,b] y) <float[1] one = {1}> {
        s = Constant<value_ints = [2, 3, 3, 3]>() w = ConstantOfShape<value = float[1] {0.25}>(s)
        c = ConvTranspose<auto_pad = "SAME_UPPER", output_padding = [1, 1], strides = [2, 2]>(x, w) y = Relu(c) }"""
    module = loaded(tmp_path, body, 10)
    assert list(module.main.graph.outputs[0].shape or ()) == [1, 3, 8, 8]
