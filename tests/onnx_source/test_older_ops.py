"""Ops whose meaning an opset changed and ONNX's converter did not: the numbers stay those of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.oracle import oracle
from edgec.compiler.sources.onnx.load_onnx import load_onnx

HEAD = '<ir_version: 8, opset_import: ["" : {}]> m '
LOOP = """(float[2,3] x) => (float[2,3] y) <int64 n = {{3}}, bool go = {{1}}> {{
  y = Loop (n, go, x) <body = b (int64 i, bool c, float[2,3] a) => (bool d, float[2,3] z) {{
    d = Identity (c)  h = {} (a)  z = Add (h, x) }}> }}"""


def both(text: str, opset: int, folder: Path, dims: tuple[int, ...]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The outputs of the file as it is, and of the module that is read from it."""
    file = folder / "m.onnx"
    onnx.save(onnx.parser.parse_model(HEAD.format(opset) + text), file)
    feeds = {"x": np.random.default_rng(3).standard_normal(dims).astype(np.float32)}
    made = oracle.run(load_onnx("m", file, 0).main, feeds)
    opened = session(str(file))
    return list(opened.run(None, feeds)), [made[one.name] for one in opened.get_outputs()]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", ["Hardmax", "Softmax", "LogSoftmax"])
def test_one_of_all_axes_from_the_first_on(kind: str, axis: int, tmp_path: Path) -> None:
    theirs, ours = both(
        f"(float[2,3,4] x) => (float[2,3,4] y) {{ y = {kind}<axis = {axis}>(x) }}", 12, tmp_path, (2, 3, 4)
    )
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)


def test_inside_a_loop(tmp_path: Path) -> None:
    theirs, ours = both(LOOP.format("Hardmax<axis = 0>"), 10, tmp_path, (2, 3))
    assert np.array_equal(ours[0], theirs[0])


@pytest.mark.parametrize("scales", ["2,2", "0.5,0.5", "2,0.5", "0.6,1.7", "1,3"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_of_opset_10(mode: str, scales: str, tmp_path: Path) -> None:
    head = f"(float[1,2,4,6] x) => (float[a,b,c,d] y) <float[4] s = {{1,1,{scales}}}>"
    text = f'{head} {{ y = Resize<mode = "{mode}">(x, s) }}'
    theirs, ours = both(text, 10, tmp_path, (1, 2, 4, 6))
    assert ours[0].shape == theirs[0].shape
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode: str, tmp_path: Path) -> None:
    text = (
        f'(float[1,2,3,4] x) => (float[a,b,c,d] y) <float[4] s = {{1,1,2,2}}> {{ y = Upsample<mode = "{mode}">(x, s) }}'
    )
    theirs, ours = both(text, 9, tmp_path, (1, 2, 3, 4))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)


def test_a_value_that_a_reflecting_pad_does_not_read(tmp_path: Path) -> None:
    text = '(float[3,4] x) => (float[a,b] y) { y = Pad<mode = "reflect", pads = [1,0,0,1], value = 2.5>(x) }'
    theirs, ours = both(text, 8, tmp_path, (3, 4))
    assert np.array_equal(ours[0], theirs[0])


@pytest.mark.parametrize(
    ("text", "dims"),
    [
        ("(float[1,32,1] x) => (float[a,b,c,d] y) <int64 s = {8}, float[16] w = {0,1,2,3,4,5,6,7,7,6,5,4,3,2,1,0}>"
         " { y = STFT(x, s, w) }", (1, 32, 1)),
        ("(float[2,3,4,4] x) => (float[a,b,c,d] y) { y = MeanVarianceNormalization(x) }", (2, 3, 4, 4)),
    ],
)  # fmt: skip
def test_what_inference_takes_for_the_default(text: str, dims: tuple[int, ...], tmp_path: Path) -> None:
    theirs, ours = both(text, 17, tmp_path, dims)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    (stated,) = load_onnx("m", tmp_path / "m.onnx", 0).main.graph.outputs
    assert stated.shape is not None
    assert all(not isinstance(d, int) or d == n for d, n in zip(stated.shape, theirs[0].shape, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "(float[1,2,8,8] x) => (y) <float[1,4] r = {0,0,5,5}, int64[1] b = {0}>"
        " { y = RoiAlign<output_height = 2>(x, r, b) }",
        "(float[1,2,8,8] x) => (y) { y = GlobalLpPool(x) }",
        "(float[1,2,8,8] x) => (y) <float[1,5] r = {0,0,0,5,5}> { y = MaxRoiPool<pooled_shape = [2,2]>(x, r) }",
    ],
)
def test_ops_that_onnx_runtime_has_at_an_older_opset_only(text: str, tmp_path: Path) -> None:
    theirs, ours = both(text, 15, tmp_path, (1, 2, 8, 8))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)


def test_an_output_without_a_shape_that_is_an_input(tmp_path: Path) -> None:
    theirs, ours = both("(float[2,3] x) => (float[2,3] y, float x) { y = Neg(x) }", 11, tmp_path, (2, 3))
    assert [one.shape for one in ours] == [one.shape for one in theirs] == [(2, 3), (2, 3)]
