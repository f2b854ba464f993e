"""General graphs by the engines' own lowering: proven on the model, and cut where a node comes out wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import edgec
import numpy as np
import onnx
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.diagnostics.diagnostic import Diagnostic, PlanError
from edgec.compiler.driver import CompileOptions, check_plan, compile_plan, load_plan
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.runtime.plain_graph import run_parts
from edgec.compiler.verify.verify_bundle import verify_bundle

HEAD = '<ir_version: 10, opset_import: ["" : 17]> m '
CONV1D = (
    HEAD
    + """(float[N,4,L] x) => (float[N,L2] y) {
    h = Conv <pads = [1, 1]> (x, w)
    r = Relu (h)
    y = ReduceMax <axes = [1], keepdims = 0> (r)
}"""
)
# MNN's converter makes other numbers of a GRU without a word, and dies of an LSTM without states to begin with
GRU = (
    HEAD
    + """(float[5,1,4] x) => (float[5,1,1,3] y) {
    s = Sigmoid (x)
    h = GRU <hidden_size = 3> (s, w, r, b)
    y = Neg (h)
}"""
)
LSTM = GRU.replace("GRU", "LSTM")
GRU_WEIGHTS = {"w": (1, 9, 4), "r": (1, 9, 3), "b": (1, 18)}
LSTM_WEIGHTS = {"w": (1, 12, 4), "r": (1, 12, 3), "b": (1, 24)}
UP = HEAD + "(float[1,3,8,8] x) => (float[1,2,17,17] y) { h = ConvTranspose <strides = [2, 2]> (x, w) y = Relu (h) }"


def weights(**shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(0)
    return [onnx.numpy_helper.from_array(rng.normal(size=s).astype(np.float32) / 3, n) for n, s in shapes.items()]


def plan(folder: Path, text: str, target: str, **shapes: tuple[int, ...]) -> Path:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(weights(**shapes))
    for node in model.graph.node:
        node.name = node.op_type.lower()
    onnx.save(model, folder / "m.onnx")
    device, place = ("snapdragon_8_gen_3", "npu") if target.startswith("qnn") else ("host", "cpu")
    source = 'model m { source = onnx("m.onnx") }'
    (folder / "p.edge").write_text(f"device {device}\n{source}\ndeploy m on {place} as {target}\n")
    return folder / "p.edge"


def off(folder: Path, **feeds: np.ndarray) -> float:
    """How far the bundle's outputs are from ONNX Runtime's on the file itself, of the largest value."""
    opened = session(str(folder / "m.onnx"))
    made = run_parts(load_manifest(folder / "out"), "m", feeds)
    names = [output.name for output in opened.get_outputs()]
    expected = dict(zip(names, opened.run(names, feeds), strict=True))
    return max(float(np.abs(made[name] - right).max() / np.abs(right).max()) for name, right in expected.items())


def stated(error: PlanError) -> list[Diagnostic]:
    """Without places and shares, which differ between processors."""
    return [replace(one, at=None, message=re.sub(r"[0-9.]+ %", "N %", one.message)) for one in error.diagnostics]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_mnns_converter_takes_what_no_rule_covers(tmp_path: Path) -> None:
    said: list[str] = []
    path = plan(tmp_path, CONV1D, "mnn", w=(8, 4, 3))
    compile_plan(load_plan(path), tmp_path / "out", CompileOptions(progress=said.append))
    (part,) = load_manifest(tmp_path / "out").parts.values()
    assert (part["target"], part["details"]["lowering"]) == ("mnn", "engine")
    proof = part["details"]["proof"]
    assert proof["probes"][:2] == ["ordinary", "ordinary"]
    assert proof["max_error"]["y"] <= proof["bound"] == 1e-4
    assert any("proving it" in line and "runs, about" in line for line in said)
    assert off(tmp_path, x=normal(2, 4, 9)) < 1e-5
    found = verify_bundle(tmp_path / "out")
    assert found["ok"], found["problems"]


def test_inputs_of_types_that_mnn_has_not_and_of_no_axes(tmp_path: Path) -> None:
    """A choice, a double and a number are proven and run as what MNN has in their place."""
    text = (
        HEAD
        + """(bool[2,4] c, double[2,4] d, float s) => (float[2,4] y) {
        x = Cast <to = 1> (d)
        w = Where (c, x, s)
        y = Relu (w)
    }"""
    )
    compile_plan(load_plan(plan(tmp_path, text, "mnn { lowering = engine fallback = none }")), tmp_path / "out")
    (part,) = load_manifest(tmp_path / "out").parts.values()
    assert part["details"]["lowering"] == "engine"
    choice = np.array([[1, 0, 1, 0], [0, 1, 0, 1]], bool)
    assert off(tmp_path, c=choice, d=normal(2, 4).astype(float), s=np.array(2, np.float32)) < 1e-5


@pytest.mark.parametrize(
    ("text", "shapes", "why"),
    [
        (GRU, GRU_WEIGHTS, "ort runs a node beside mnn: `gru` (GRU) is computed wrong: off by "),
        (LSTM, LSTM_WEIGHTS, "ort runs a node beside mnn: `lstm` (LSTM) makes it fail: MNN's own converter"),
    ],
    ids=["wrong", "dies"],
)
def test_a_node_that_the_converter_gets_wrong_runs_beside_it(
    tmp_path: Path, text: str, shapes: dict[str, tuple[int, ...]], why: str
) -> None:
    made = compile_plan(load_plan(plan(tmp_path, text, "mnn", **shapes)), tmp_path / "out")
    parts = load_manifest(tmp_path / "out").parts
    assert [part["target"] for part in parts.values()].count("ort") == 1
    assert off(tmp_path, x=normal(5, 1, 4)) < 1e-4
    assert any(why in note for note in made.models[0].notes())
    found = verify_bundle(tmp_path / "out")
    assert found["ok"], found["problems"]


def test_without_a_fallback_it_is_refused_by_name(tmp_path: Path, golden_error) -> None:
    with pytest.raises(PlanError) as raised:
        compile_plan(load_plan(plan(tmp_path, GRU, "mnn { fallback = none }", **GRU_WEIGHTS)), tmp_path / "out")
    golden_error("E0509", stated(raised.value))
    assert not (tmp_path / "out").exists()


def test_the_check_tells_what_the_engine_will_lower(tmp_path: Path, golden_error) -> None:
    path = plan(tmp_path, CONV1D, "mnn", w=(8, 4, 3))
    for _ in range(2):  # the second is answered by the run that was remembered
        checked, said, _sources = check_plan(path)
        assert checked is not None
        (note,) = said
        golden_error("E0510", [replace(note, at=None)])
    covered = plan(tmp_path, HEAD + "(float[2,3] x) => (float[2,3] y) { y = Relu (x) }", "mnn")
    assert check_plan(covered)[1] == []


def test_a_rule_of_edgec_comes_first(tmp_path: Path) -> None:
    text = HEAD + "(float[2,4] x) => (float[2,3] y) { h = MatMul (x, w) y = Relu (h) }"
    compile_plan(load_plan(plan(tmp_path, text, "mnn", w=(4, 3))), tmp_path / "out")
    (part,) = load_manifest(tmp_path / "out").parts.values()
    assert part["details"]["lowering"] == "edgec"


def test_a_model_of_which_nothing_is_left(tmp_path: Path, golden_error) -> None:
    text = HEAD + "(float[5,1,4] x) => (float[5,1,1,3] y) { y = GRU <hidden_size = 3> (x, w, r, b) }"
    with pytest.raises(PlanError) as raised:
        compile_plan(load_plan(plan(tmp_path, text, "mnn", **GRU_WEIGHTS)), tmp_path / "out")
    golden_error("E0508", stated(raised.value))


def test_the_npu_takes_what_no_rule_covers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_plan(load_plan(plan(tmp_path, UP, "qnn", w=(3, 2, 3, 3))), tmp_path / "out")
    (part,) = load_manifest(tmp_path / "out").parts.values()
    assert part["details"]["lowering"] == "engine"
    assert part["details"]["proof"]["main"]["arithmetic"] == "float16"
    assert off(tmp_path, x=normal(1, 3, 8, 8)) < 5e-3
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "of another machine"))
    found = verify_bundle(tmp_path / "out")
    assert found["ok"], found["problems"]


def test_what_htp_averages_wrong_runs_on_the_cpu(tmp_path: Path) -> None:
    pool = "AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (h)"
    text = HEAD + f"(float[1,4,8,8] x) => (float[1,4,4,4] y) {{ h = Sigmoid (x) y = {pool} }}"
    compile_plan(load_plan(plan(tmp_path, text, "qnn")), tmp_path / "out")
    parts = load_manifest(tmp_path / "out").parts
    assert {part["target"] for part in parts.values()} == {"qnn", "ort"}
    assert off(tmp_path, x=normal(1, 4, 8, 8)) < 5e-3


def test_an_output_that_is_an_input_is_handed_on_beside_the_npu(tmp_path: Path) -> None:
    text = HEAD + "(float[1,4,8,8] x) => (float[1,4,8,8] x, float[1,4,8,8] y) { y = Relu (x) }"
    compile_plan(load_plan(plan(tmp_path, text, "qnn")), tmp_path / "out")
    (part,) = load_manifest(tmp_path / "out").parts.values()
    assert [spec["name"] for spec in part["graphs"]["main"]["outputs"]] == ["y"]
    assert off(tmp_path, x=normal(1, 4, 8, 8)) < 5e-3
    assert verify_bundle(tmp_path / "out")["ok"]


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("(float[4] t, int64[3,1] i, float[2,8] x) => (float[3] y, float[2,8] z)"
         " { y = GatherND (t, i)  z = Erf (x) }", (4,)),
        ("(float[3,4] t, int64[3,2] i, float[2,8] x) => (float[3,2] y, float[2,8] z)"
         " { y = GatherElements <axis = 1> (t, i)  z = Erf (x) }", (3, 4)),
    ],
    ids=["GatherND", "GatherElements"],
)  # fmt: skip
def test_indices_from_the_end_of_every_kind_of_lookup(tmp_path: Path, text: str, table: tuple[int, ...]) -> None:
    """MNN makes zeros of them, and numbers of the next row."""
    indices = np.array([[-4], [-1], [-2]] if len(table) == 1 else [[-4, 1], [0, -1], [-2, 3]], np.int64)
    compile_plan(load_plan(plan(tmp_path, HEAD + text, "mnn { lowering = engine }")), tmp_path / "out")
    assert off(tmp_path, t=normal(*table), i=indices, x=normal(2, 8)) < 1e-6
    assert {part["target"] for part in load_manifest(tmp_path / "out").parts.values()} == {"mnn", "ort"}


@pytest.mark.parametrize("what", ["lower", "refuse_unproven"])
def test_what_edgecs_rules_cannot_settle_is_the_providers(
    what, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range that others' integers lack (it ended a compile), a form that no run by itself proves (it was refused)."""
    from edgec.targets.qnn import lower_parts
    from edgec.targets.qnn.lower.integer_activations import NoRange

    def cannot(*_args: object) -> None:
        raise NoRange("h") if what == "lower" else PlanError(Diagnostic("E0640", "never run"))

    monkeypatch.setattr(lower_parts, what, cannot)
    text = HEAD + "(float[2,8] x) => (float[2,8] y) { h = Relu (x) y = Neg (h) }"
    compile_plan(load_plan(plan(tmp_path, text, "qnn")), tmp_path / "out")
    (part,) = load_manifest(tmp_path / "out").parts.values()
    assert part["target"] == "qnn"
    assert off(tmp_path, x=normal(2, 8)) < 2e-3


def test_a_graph_of_halves_is_held_to_what_halves_can(tmp_path: Path) -> None:
    """MNN computes it in float32, so that the oracle's own rounding is what the two differ by."""
    text = HEAD + "(float16[2,8] x) => (float16[2,8] y) { h = Sigmoid (x) y = Mul (h, x) }"
    compile_plan(load_plan(plan(tmp_path, text, "mnn { lowering = engine }")), tmp_path / "out")
    assert {part["target"] for part in load_manifest(tmp_path / "out").parts.values()} == {"mnn"}
    assert off(tmp_path, x=normal(2, 8).astype(np.float16)) < 2e-3


def test_a_sequence_stays_in_one_part(tmp_path: Path) -> None:
    text = """(float[2,3] a, float[2,3] b) => (float[2,3] y, float[2,3] z) {
        z = Relu (a)
        s = SequenceConstruct (a, b)
        i = Constant <value_int = 1> ()
        y = SequenceAt (s, i)
    }"""
    compile_plan(load_plan(plan(tmp_path, HEAD + text, "mnn")), tmp_path / "out")
    assert off(tmp_path, a=normal(2, 3), b=-normal(2, 3)) < 1e-6


def test_weights_that_float16_has_no_digits_for(tmp_path: Path) -> None:
    """HTP reads zeros in their place, and an output of such numbers looks right."""
    text = """(float[2,8] x) => (float[2,4] y, float[2,8] z) <float[4] w = {1e-12, 2e-12, -3e-12, 1e-13}> {
        s = Constant <value_ints = [8, 1]> ()
        t = Reshape (r, s)
        y = MatMul (x, m)
        z = Sigmoid (x)
    }""".replace("        s = Constant <value_ints = [8, 1]> ()\n        t = Reshape (r, s)\n", "")
    path = plan(tmp_path, HEAD + text, "qnn { lowering = engine }", m=(8, 4))
    model = onnx.load(tmp_path / "m.onnx")
    (weight,) = [one for one in model.graph.initializer if one.name == "m"]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1e-12), "m"))
    onnx.save(model, tmp_path / "m.onnx")
    made = compile_plan(load_plan(path), tmp_path / "out")
    assert any("(MatMul) reads `m`, whose numbers are" in note for note in made.models[0].notes())
    x = normal(2, 8)
    assert off(tmp_path, x=x) < 2e-3


def test_integers_over_their_range_are_tried_on_the_npu(tmp_path: Path) -> None:
    """HTP takes the remainder of large ones wrong; what float16 cannot hold is left out."""
    text = """(float[2,8] x, int64[2,4] i) => (float[2,8] y, int64[2,4] z) {
        y = Sigmoid (x)
        k = Constant <value_int = 1000> ()
        z = Mod (i, k)
    }"""
    compile_plan(load_plan(plan(tmp_path, HEAD + text, "qnn { lowering = engine }")), tmp_path / "out")
    large = np.array([[1 << 30, 5, -7, 999999999], [0, 1001, -1 << 29, 12345678]], np.int64)
    made = run_parts(load_manifest(tmp_path / "out"), "m", {"x": normal(2, 8), "i": large})
    assert np.array_equal(made["z"], large % 1000)


def test_all_numbers_beyond_float16_leave_the_npu_at_once(tmp_path: Path) -> None:
    """One after the other, each with a look for the next, a ResNet of random weights took a quarter of an hour."""
    text = """(float[1,16] x) => (float[1,16] y) {
        a = Erf (x)  b = MatMul (a, w)  c = Relu (b)  d = MatMul (c, w)  e = Abs (d)  f = MatMul (e, v)  y = Neg (f)
    }"""
    path = plan(tmp_path, HEAD + text, "qnn { lowering = engine }", w=(16, 16), v=(16, 16))
    model = onnx.load(tmp_path / "m.onnx")
    for weight, factor in zip(model.graph.initializer, (1e3, 1e-3), strict=True):
        held = onnx.numpy_helper.to_array(weight) * np.float32(factor)
        weight.CopyFrom(onnx.numpy_helper.from_array(held, weight.name))
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    onnx.save(model, tmp_path / "m.onnx")
    said: list[str] = []
    made = compile_plan(load_plan(path), tmp_path / "out", CompileOptions(progress=said.append))
    assert len([note for note in made.models[0].notes() if "float16's largest is 65,504" in note]) == 3
    assert sum("proving it on the emulator" in text for text in said) <= 4  # whole, then what is left of it
    assert off(tmp_path, x=normal(1, 16)) < 5e-3


def test_a_constant_beyond_float16_is_no_end_of_a_check(tmp_path: Path) -> None:
    """edgec's rules have no form of it: the provider's own lowering is tried, as for an op without a rule."""
    text = "(float[2,8] x) => (float[2,8] y) { h = Max (x, low) y = Sigmoid (h) }"
    path = plan(tmp_path, HEAD + text, "qnn", low=(1,))
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(-np.inf, np.float32), "low"))
    onnx.save(model, tmp_path / "m.onnx")
    assert not edgec.check(path).errors
    path.write_text(path.read_text().replace("as qnn", "as qnn { lowering = edgec }"))
    assert [one.code for one in edgec.check(path).errors] == ["E0630"]
