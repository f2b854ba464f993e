"""What a plain graph takes and gives is of the types that its ONNX file states, whatever its engine computes in."""

from __future__ import annotations

import re
from pathlib import Path

import edgec
import numpy as np
import onnx
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import EngineError, PlanError
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.runtime.engines import open_graph
from edgec.compiler.runtime.signature import leaving
from edgec.compiler.runtime.value_types import Unfit, converted

HEAD = '<ir_version: 10, opset_import: ["" : 17]> m '
TYPES = """(bool[2,3] b, int64[2,3] i, int8[2,3] s, float[2,3] f, double[2,3] d)
    => (int64[2,3] eye, bool[2,3] n, int64[2] k, int8[2,3] r, double[2,3] e, float[2,3] g, int64[2,3] i) {
    n = Not (b)
    k = ArgMax <axis = 1, keepdims = 0> (f)
    q = Cast <to = 1> (s)
    p = Relu (q)
    r = Cast <to = 3> (p)
    e = Neg (d)
    g = Sigmoid (f)
    eye = EyeLike <dtype = 7> (f)
}"""
FEEDS = {
    "b": np.array([[1, 0, 1], [0, 1, 0]], bool),
    "i": np.arange(-3, 3).reshape(2, 3),
    "s": np.arange(-3, 3, dtype=np.int8).reshape(2, 3),
    "f": np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3),
    "d": np.linspace(-2, 2, 6).reshape(2, 3),
}
STATED = {"eye": "int64", "n": "bool", "k": "int64", "r": "int8", "e": "float64", "g": "float32", "i": "int64"}


def compiled(folder: Path, body: str, target: str) -> Path:
    onnx.save(onnx.parser.parse_model(HEAD + body), folder / "m.onnx")
    device, place = ("snapdragon_8_gen_3", "npu") if target == "qnn" else ("host", "cpu")
    source = 'model m { source = onnx("m.onnx") }'
    (folder / "p.edge").write_text(f"device {device}\n{source}\ndeploy m on {place} as {target}\n")
    edgec.compile(str(folder / "p.edge"), str(folder / "out"))
    return folder / "out"


def held(out: Path) -> dict[str, str]:
    """The types of the parts' outputs, by name."""
    parts = load_manifest(out).parts.values()
    return {spec["name"]: spec["dtype"] for part in parts for spec in part["graphs"]["main"]["outputs"]}


@pytest.mark.parametrize("target", ["ort", "mnn", "qnn"])
def test_outputs_are_of_the_graphs_types(target: str, tmp_path: Path) -> None:
    out = compiled(tmp_path, TYPES, target)
    stated = load_manifest(out).model("m")
    assert {spec["name"]: spec["dtype"] for spec in stated["outputs"]} == STATED
    assert [spec["name"] for spec in stated["inputs"]] == list(FEEDS)
    np.savez(tmp_path / "in.npz", **FEEDS)
    assert main(["run", str(out), "--inputs", str(tmp_path / "in.npz"), "--outputs", str(tmp_path / "o.npz")]) == 0
    opened = session(str(tmp_path / "m.onnx"))
    right = dict(zip([one.name for one in opened.get_outputs()], opened.run(None, FEEDS), strict=True))
    with edgec.open(out) as bundle, np.load(tmp_path / "o.npz") as file:
        made = bundle.run(FEEDS)
        for answers in (made, file):
            assert list(answers) == list(STATED)
            for name, expected in right.items():
                assert answers[name].dtype == expected.dtype
                np.testing.assert_allclose(answers[name], expected, atol=0 if expected.dtype.kind != "f" else 2e-3)
        assert bundle.verify()


def test_the_manifest_states_what_an_engine_holds_and_what_the_graph_does(tmp_path: Path) -> None:
    out = compiled(tmp_path, TYPES, "mnn")
    assert set(held(out).values()) == {"float32", "int32"}
    (part,) = load_manifest(out).parts
    opened = open_graph(load_manifest(out), part, "main")  # what MNN itself takes and gives
    specs = load_manifest(out).parts[part]["graphs"]["main"]["inputs"]
    made = opened.run({spec["name"]: FEEDS[spec["name"]].astype(spec["dtype"]) for spec in specs})
    opened.close()
    assert {name: array.dtype.name for name, array in made.items()} == held(out)


@pytest.mark.parametrize("target", ["mnn", "qnn"])
def test_integers_that_an_engine_has_no_bits_for_are_refused(target: str, tmp_path: Path) -> None:
    text = """(int64[2] i, float[2,4] x) => (float[2,1] y, float[2,4] z) {
        c = Cast <to = 1> (i)
        s = Constant <value_ints = [2, 1]> ()
        y = Reshape (c, s)
        z = Relu (x)
    }"""
    x = np.ones((2, 4), np.float32)
    with edgec.open(compiled(tmp_path, text, target)) as bundle:
        assert bundle.run({"i": np.array([1, 0]), "x": x})["y"].dtype == np.float32
        assert bundle.run({"i": np.array([1, 0], np.uint8), "x": x.astype(np.int64)})["y"].dtype == np.float32
        for given, why in [
            ({"i": np.array([2**32, 0]), "x": x}, "holds 4294967296"),
            ({"i": np.array([0.5, 1]), "x": x}, "`i` of model `m` is int64, and the float64 array given holds 0.5"),
            ({"i": np.array(["a", "b"]), "x": x}, "holds texts"),
            ({"i": np.array([[1, 0]]), "x": x}, "has the shape 2, the array given 1x2"),
            ({"x": x}, "reads `i` (int64 2), which is not given"),
            ({"i": np.array([1, 0]), "xx": x}, "`xx` is given, and is no input"),
            ({"i": np.array([1, 0]), "x": x, "X1": x}, "has no input `X1`"),
        ]:
            with pytest.raises(PlanError) as raised:
                bundle.run(given)
            assert (raised.value.diagnostics[0].code, why in str(raised.value)) == ("E0923", True), raised.value


def test_floats_beyond_float16_are_refused_where_the_npu_reads_them(tmp_path: Path) -> None:
    with edgec.open(compiled(tmp_path, "(float[1,4] x) => (float[1,4] y) { y = Relu (x) }", "qnn")) as bundle:
        with pytest.raises(PlanError, match=r"enters its engine as float16, .* holds 100000\.0"):
            bundle.run({"x": np.array([[1e5, 1, 2, 3]], np.float32)})
        assert np.isinf(bundle.run({"x": np.array([[np.inf, 1, 2, 3]], np.float32)})["y"][0, 0])


@pytest.mark.parametrize(
    ("values", "dtype", "lost"),
    [
        (np.array([1, 256]), "uint8", "256"),
        (np.array([-1], np.int8), "uint8", "-1"),
        (np.array([2**63], np.uint64), "int64", str(2**63)),
        (np.array([0, 2]), "bool", "2"),
        (np.array([1.0, 2.5]), "int32", "2.5"),
        (np.array([np.nan]), "int64", "nan"),
        (np.array([2.0**63]), "int64", "9.2"),
        (np.array([1e39]), "float32", "1e+39"),
        (np.array([1j]), "float32", "complex"),
        (np.array([(1, 2)], [("a", "i4"), ("b", "i4")]), "int32", "values"),
    ],
)
def test_no_value_wraps_or_is_cut(values: np.ndarray, dtype: str, lost: str) -> None:
    with pytest.raises(Unfit, match=f"holds.*{re.escape(lost)}"):
        converted(values, dtype)


def test_what_another_type_holds_is_the_same_there() -> None:
    for values, dtype in [
        (np.array([0, 1]), "bool"),
        (np.array([1.0, -3.0]), "int8"),
        (np.array([True]), "float16"),
        (np.array([np.inf, np.nan, 1]), "bfloat16"),
        (np.array([2**31 - 1]), "int32"),
    ]:
        assert np.array_equal(converted(values, dtype).astype(np.float64), values.astype(np.float64), equal_nan=True)


def test_halves_and_small_negative_integers_are_tried(tmp_path: Path) -> None:
    """MNN rounds halves away from zero, and compares integers as if their bits were floats."""
    text = """(float[2,4] x, int32[1,2] i) => (float[2,4] y, int64[1,1] k, float[2,4] z) {
        y = Round (x)
        k = ArgMin <axis = 1> (i)
        z = Erf (x)
    }"""
    x, i = np.array([[0.5, 1.5, -0.5, 2.5], [3, -1.5, 0.1, 0.9]], np.float32), np.array([[2, -1]], np.int32)
    out = compiled(tmp_path, text, "mnn")
    assert {part["target"] for part in load_manifest(out).parts.values()} == {"ort", "mnn"}
    with edgec.open(out) as bundle:
        made = bundle.run({"x": x, "i": i})
    np.testing.assert_array_equal(made["y"], np.rint(x))
    assert made["k"] == [[1]]


def test_an_output_that_its_type_does_not_hold_is_the_engines_fault() -> None:
    spec = {"name": "y", "dtype": "uint8", "shape": [1]}
    with pytest.raises(EngineError, match="output `y` is uint8 in the graph, and what the engine made holds 300"):
        leaving(spec, np.array([300], np.int32), {**spec, "dtype": "int32"})
