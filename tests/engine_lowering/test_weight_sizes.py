"""Weights that are inputs with open sizes: what reads them says their sizes, or the refusal says what to give."""

from __future__ import annotations

from pathlib import Path

import edgec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.oracle.weight_sizes import fixed_sizes

HEAD = '<ir_version: 10, opset_import: ["" : 17]> m '


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("(float[2,300] x, float[K,M] w) => (float[2,M] y) { y = MatMul (x, w) }", {"K": 300}),
        ("(float[2,300] x, float[?,7] w) => (float[2,7] y) { y = MatMul (x, w) }", {"w.0": 300}),
        ("(float[A,B] x, float[C,300] w) => (float[A,C] y) { y = Gemm <transB = 1> (x, w) }", {"B": 300}),
        ("(float[1,8,H,W] x, float[O,I,A,B] w, float[C] b) => (float y) {"
         " y = Conv <group = 2, kernel_shape = [3, 5]> (x, w, b) }", {"I": 4, "A": 3, "B": 5}),
        ("(float[1,C,H,W] x, float[6,I,3,3] w, float[D] b) => (float y) { y = Conv (x, w, b) }", {"D": 6}),
        ("(float[1,8,H,W] x, float[I,5,3,3] w, float[D] b) => (float y) { y = ConvTranspose (x, w, b) }",
         {"I": 8, "D": 5}),
        ("(float[S,B,7] x, float[D,G,I] w, float[1,Q,R] r) => (float y) { y = LSTM <hidden_size = 3> (x, w, r) }",
         {"D": 1, "G": 12, "I": 7, "Q": 12, "R": 3}),
        ("(float[2,4,L] x, float[A] s, float[B] b, float[C] m, float[E] v) => (float y) {"
         " y = BatchNormalization (x, s, b, m, v) }", {"A": 4, "B": 4, "C": 4, "E": 4}),
        ("(float[2,K] x, float[K,M] w, float[1,M] b) => (float y) { h = MatMul (x, w) y = Add (h, b) }", {}),
    ],
)  # fmt: skip
def test_what_reads_a_weight_says_its_size(text: str, sizes: dict[str, int]) -> None:
    graph = ir.from_proto(onnx.parser.parse_model(HEAD + text)).graph
    assert fixed_sizes(graph) == sizes


def written(folder: Path, text: str, target: str = "mnn", line: str = "") -> Path:
    onnx.save(onnx.parser.parse_model(HEAD + text), folder / "m.onnx")
    model = f'model m {{ source = onnx("m.onnx") {line} }}'
    (folder / "p.edge").write_text(f"device host\n{model}\ndeploy m on cpu as {target}\n")
    return folder / "p.edge"


CHAIN = """(float[2,300] x, float[K,70] w, float[B] b) => (float[N,M] y) {
    h = MatMul (x, w)
    r = Add (h, b)
    y = Erf (r)
}"""


def test_they_are_proven_and_run(tmp_path: Path) -> None:
    edgec.compile(str(written(tmp_path, CHAIN)), str(tmp_path / "out"))
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=s).astype(np.float32) for name, s in (("x", (2, 300)), ("w", (300, 70)), ("b", 70))}
    with edgec.open(tmp_path / "out") as bundle:
        made = bundle.run(feeds)["y"]
        assert bundle.verify()
    np.testing.assert_allclose(made, session(str(tmp_path / "m.onnx")).run(None, feeds)[0], atol=1e-4)


CONV = "(float[1,70,8,8] x, float[O,I,H,W] w) => (float[1,O,P,Q] y) { y = Conv (x, w) }"


def test_a_convolution_of_open_sizes_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"reads weights of open sizes, `w`.*`shapes = \{ w: \[O, I, H, W\] \}`"):
        edgec.compile(str(written(tmp_path, CONV)), str(tmp_path / "out"))
    path = written(tmp_path, CONV, line="shapes = { w: [5, 70, 3, 3] }")
    edgec.compile(str(path), str(tmp_path / "out"))


def test_sizes_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    """1,000 values as 10 rows of 100: no size that is tried is right, and no op says it."""
    text = """(float[N] x) => (float[10,100] y) {
        s = Constant <value_ints = [10, 100]> ()
        r = Reshape (x, s)
        y = Erf (r)
    }"""
    with pytest.raises(PlanError) as raised:
        edgec.compile(str(written(tmp_path, text)), str(tmp_path / "out"))
    (told,) = raised.value.diagnostics
    assert told.code == "E0712"
    assert told.help is not None
    assert "`shapes = { x: [N] }` with numbers for names" in told.help
