"""Files as strangers write them: read where ONNX Runtime reads them, else refused by name and reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.oracle import oracle
from edgec.compiler.sources.onnx.load_onnx import load_onnx
from onnx import TensorProto, helper, numpy_helper

HEAD = '<ir_version: 9, opset_import: ["" : 19]> m '


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str | onnx.ModelProto], Path]:
    def write(model: str | onnx.ModelProto) -> Path:
        onnx.save(onnx.parser.parse_model(HEAD + model) if isinstance(model, str) else model, tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return write


def refused(file: Path) -> tuple[str, str, str | None]:
    with pytest.raises(PlanError) as raised:
        load_onnx("m", file, 0)
    (one,) = raised.value.diagnostics
    return one.code, one.message.replace(str(file), "FILE"), one.help


def test_an_output_that_is_listed_twice_is_one(written: Callable[..., Path], tmp_path: Path) -> None:
    model = onnx.parser.parse_model(HEAD + "(float[2] x) => (float[2] y, float[2] z) { y = Relu (x) z = Neg (x) }")
    model.graph.output.add().CopyFrom(model.graph.output[0])
    file = written(model)
    assert [value.name for value in load_onnx("m", file, 0).main.graph.outputs] == ["y", "z"]
    (tmp_path / "p.edge").write_text('device host\nmodel m { source = onnx("m.onnx") }\ndeploy m on cpu as ort\n')
    assert main(["compile", str(tmp_path / "p.edge"), "-o", str(tmp_path / "out"), "--quiet"]) == 0


def test_texts_may_be_constants(written: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.parser.parse_model(HEAD + "(string[n] x) => (bool[n] y) { y = Equal (x, word) }")
    model.graph.initializer.append(helper.make_tensor("word", TensorProto.STRING, (1,), [b"a"]))
    file = written(model)
    made = oracle.run(load_onnx("m", file, 0).main, {"x": np.array(["a", "b"], object)})
    assert made["y"].tolist() == [True, False]
    assert main(["inspect", str(file)]) == 0


@pytest.mark.parametrize("key", ["offset", "length"])
def test_a_place_before_its_file_begins(key: str, written: Callable[..., Path]) -> None:
    model = onnx.parser.parse_model(HEAD + "(float[2] x) => (float[2] y) { y = Add (x, w) }")
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for name, text in (("location", "w.bin"), (key, "-4")):
        entry = weight.external_data.add()
        entry.key, entry.value = name, text
    model.graph.initializer.append(weight)
    file = written("(float[2] x) => (float[2] y) { y = Relu (x) }")
    file.write_bytes(model.SerializeToString())
    code, message, _ = refused(file)
    assert (code, f"`w` in `FILE` states `-4` as its {key}" in message) == ("E0372", True)


def test_a_dictionary_is_no_tensor(written: Callable[..., Path]) -> None:
    model = onnx.parser.parse_model(HEAD + "(float[2,4] x) => (float[2,4] z) { z = Relu (x) }")
    scores = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.output[0].CopyFrom(helper.make_value_info("z", helper.make_sequence_type_proto(scores)))
    code, message, help = refused(written(model))
    assert (code, message) == ("E0376", "`z` of `FILE` is a dictionary, not a tensor")
    assert "zipmap" in (help or "")


def test_inputs_without_axes_are_asked_for_together(written: Callable[..., Path]) -> None:
    model = onnx.parser.parse_model(
        HEAD + "(float[2,4] a, float[2,4] b, float[4] c) => (float[2,4] y) { y = Sum (a, b, c) }"
    )
    for value in model.graph.input[:2]:
        value.type.tensor_type.ClearField("shape")
    file = written(model)
    assert refused(file) == (
        "E0378",
        "`FILE` states no shape for its inputs `a`, `b`",
        "say how many axes there are and what they are: `shapes = { a: [sizes], b: [sizes] }` in the model's line",
    )
    graph = load_onnx("m", file, 0, {"a": (2, 4), "b": (2, 4)}).main.graph
    assert [list(value.shape or ()) for value in graph.inputs] == [[2, 4], [2, 4], [4]]
    plan = file.with_name("p.edge")
    for shapes, code in (("", 1), ("  shapes = { a: [2, 4] }", 1), ("  shapes = { a: [2, 4], b: [2, 4] }", 0)):
        plan.write_text(f'device host\nmodel m {{ source = onnx("m.onnx"){shapes} }}\ndeploy m on cpu as ort\n')
        assert main(["check", str(plan)]) == code


def test_an_input_may_be_an_output(
    written: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written("(float[2] x) => (float[2] y, float[2] x) { y = Relu (x) }")
    (tmp_path / "p.edge").write_text('device host\nmodel m { source = onnx("m.onnx") }\ndeploy m on cpu as ort\n')
    assert main(["compile", str(tmp_path / "p.edge"), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["run", str(tmp_path / "out"), "--random", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (set(told["inputs"]), set(told["outputs"])) == ({"x"}, {"x", "y"})
    assert told["outputs"]["x"] == told["inputs"]["x"]
