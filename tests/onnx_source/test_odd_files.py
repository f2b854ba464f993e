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
from edgec.compiler.sources.onnx.inline_weights import skeleton
from edgec.compiler.sources.onnx.load_onnx import load_onnx
from edgec.compiler.sources.onnx.onnx_source import OnnxSource
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


def test_large_weights_stay_in_the_file(tmp_path: Path) -> None:
    """They are read from there by rows, those of a file of any name, and the file is told where it is cut."""
    rng = np.random.default_rng(0)
    held = {name: rng.standard_normal((96, 200)).astype(np.float32) for name in ("v", "w")}
    body = "(float[2,96] x) => (float[2,200] y) { a = MatMul (x, v) b = MatMul (x, w) y = Add (a, b) }"
    model = onnx.parser.parse_model(HEAD + body)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    x = np.ones((2, 96), np.float32)
    for name in ("m.onnx", "größe.onnx"):
        (tmp_path / name).write_bytes(model.SerializeToString())
        found = skeleton(tmp_path / name)
        assert (found is None) == (name != "m.onnx")
        assert found is None or len(found) < 1000
        module = load_onnx("m", tmp_path / name, 0)
        expected = x @ (held["v"] + held["w"])
        np.testing.assert_allclose(oracle.run(module.main, {"x": x})["y"], expected, rtol=1e-4, atol=1e-4)
        for value in module.main.graph.initializers.values():
            assert np.array_equal(value.const_value.numpy(), held[value.name])
    whole = (tmp_path / "m.onnx").read_bytes()
    for size in (len(whole) - 40, len(whole) // 2, 100, 1):
        (tmp_path / "m.onnx").write_bytes(whole[:size])
        assert skeleton(tmp_path / "m.onnx") is None
        assert refused(tmp_path / "m.onnx")[0] == "E0371"


def test_a_large_weight_of_another_size_than_it_states(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(HEAD + "(float[2,96] x) => (float[2,400] y) { y = MatMul (x, w) }")
    weight = numpy_helper.from_array(np.zeros((96, 200), np.float32), "w")
    weight.dims[1] = 400
    model.graph.initializer.append(weight)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    code, message, _ = refused(tmp_path / "m.onnx")
    assert (code, "76800 bytes for float[96, 400], which takes 153600" in message) == ("E0372", True)


def test_a_file_that_was_written_anew_is_read_anew(written: Callable[..., Path]) -> None:
    file = written("(float[2] x) => (float[2] y) { y = Relu (x) }")
    source = OnnxSource()
    first, again = (source.load("a", file, 0) for _ in range(2))
    assert first.main is not again.main
    first.main.graph.node("Relu_0").op_type = "Neg"
    assert [node.op_type for node in source.load("b", file, 0).main.graph] == ["Relu"]
    written("(float[2] x) => (float[2] y) { y = Abs (x) }")
    assert [node.op_type for node in source.load("b", file, 0).main.graph] == ["Abs"]
