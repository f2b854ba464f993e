"""`shapes = { x: [1, 3, 8, 16] }`: sizes of a plan in place of open dimensions of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.sources.onnx.load_onnx import load_onnx

GRAPH = "g (float[n,3,h,w] x, float[n,8] u) => (float[n,3,h,w] y, float[n,8] v) { y = Relu(x) v = Neg(u) }"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {GRAPH}')
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_name_gets_its_size_wherever_it_stands(file: Path) -> None:
    graph = load_onnx("m", file, 0, {"x": (2, 3, 8, 16)}).main.graph
    shapes = {value.name: list(value.shape or ()) for value in (*graph.inputs, *graph.outputs)}
    assert shapes == {"x": [2, 3, 8, 16], "u": [2, 8], "y": [2, 3, 8, 16], "v": [2, 8]}


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"image": (1,)}, "has no input `image`"),
        ({"x": (1, 3, 8)}, "has the shape nx3xhxw, which 1x3x8 does not fit"),
        ({"x": (1, 4, 8, 8)}, "which 1x4x8x8 does not fit"),
        ({"x": (1, 3, 8, 8), "u": (2, 8)}, "`n` is 1 elsewhere"),
    ],
)
def test_what_does_not_fit_is_said(shapes: dict[str, tuple[int, ...]], says: str, file: Path) -> None:
    with pytest.raises(PlanError) as raised:
        load_onnx("m", file, 0, shapes)
    assert (raised.value.diagnostics[0].code, says in raised.value.diagnostics[0].message) == ("E0378", True)


def test_a_plan_gives_them(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = file.with_name("plan.edge")
    text = 'device snapdragon_8_gen_3\nmodel m {{ source = onnx("m.onnx")  shapes = {} }}\ndeploy m on npu as qnn\n'
    for given, told in (
        ('{ x: [1, 3, 8, 16], "u": [1, 8] }', None),
        ("{ x: [1, 3, 8, 16] }", None),  # `u` has the batch of `x`
        ("{ y: [1] }", "E0378"),
        ("{ x: 3 }", "E0201"),
        ("{ x: [1, 3, 8, 16], x: [1] }", "E0203"),
        ("{ x [1] }", "E0001"),
        ("[1]", "E0201"),
    ):
        plan.write_text(text.format(given))
        assert main(["check", str(plan), "--no-prove"]) == (0 if told is None else 1)
        assert told is None or told in capsys.readouterr().err


def test_a_decoder_takes_none(file: Path, golden_error: Callable[..., None]) -> None:
    from edgec.compiler.sources.hf.hf_source import HfSource

    with pytest.raises(PlanError) as raised:
        HfSource().with_shapes({"x": (1,)})
    golden_error("E0378", raised.value)


def test_a_question_mark_is_no_name(tmp_path: Path) -> None:
    text = "g (float[1,3,h,w] x) => (float[1,3,h,w] y) { y = Relu(x) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.dim_param = "?"
    onnx.save(proto, tmp_path / "m.onnx")
    graph = load_onnx("m", tmp_path / "m.onnx", 0, {"x": (1, 3, 8, 16)}).main.graph
    assert list(graph.outputs[0].shape or ()) == [1, 3, 8, 16]
