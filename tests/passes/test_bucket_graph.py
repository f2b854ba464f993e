"""`bucket (shapes = [{ x: [1, 3, 8, 8] }, …])`: a plain graph at each of the shapes, inferred first, then asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.oracle import run
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.plan.parameters import InputShapes
from edgec.compiler.runtime.plain_graph import run_graph
from edgec.compiler.sources.onnx.load_onnx import load_onnx
from edgec.passes.bucket import Bucket

GRAPH = """g (float[n,3,h,w] x, float[n,4] u, float[m] z) => (float[n,k] y, float[n,4] v, float[m] q) {
    c = Conv<pads = [1, 1, 1, 1]>(x, wt)
    r = Relu(c)
    s = Shape(r)
    i = Constant<value_ints = [0]>()
    b = Gather(s, i)
    e = Constant<value_ints = [-1]>()
    t = Concat<axis = 0>(b, e)
    y = Reshape(r, t)
    v = Neg(u)
    q = Abs(z)
}"""


@pytest.fixture
def module(tmp_path: Path) -> Module:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {GRAPH}')
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "wt"))
    onnx.save(proto, tmp_path / "m.onnx")
    return load_onnx("m", tmp_path / "m.onnx", 0)


def bucket(*shapes: dict[str, tuple[int, ...]]) -> Bucket:
    return Bucket(shapes=tuple(map(InputShapes, shapes)))


def test_each_bucket_is_static_and_computes_the_same(module: Module) -> None:
    whole = module.clone()
    line = bucket({"x": (1, 3, 8, 8), "z": (5,)}, {"x": (2, 3, 4, 16), "z": (1,)})
    assert line.run(module, Scope()) == 2
    module.level = Level.STATIC
    assert violations(module) == []
    assert [node.op_type for node in module.graphs["s0"].graph] == ["Conv", "Relu", "Reshape", "Neg", "Abs"]
    weights = [model.graph.initializers["wt"].const_value for model in module.graphs.values()]
    assert weights[0] is weights[1]
    feeds = {"x": np.ones((2, 3, 4, 16), np.float32), "u": np.ones((2, 4), np.float32), "z": np.ones(1, np.float32)}
    assert np.array_equal(run(module.graphs["s1"], feeds)["y"], run(whole.main, feeds)["y"])
    assert line.run(module, Scope()) == 0
    with pytest.raises(PlanError, match="is in buckets already"):
        bucket({"x": (1, 3, 8, 8), "z": (5,)}).run(module, Scope())


@pytest.mark.parametrize(
    ("shapes", "code", "says"),
    [
        ({"x": (1, 3, 8, 8)}, "E0418", "input `z` has the shape [m], whose open sizes do not follow from `x`"),
        ({"x": (1, 3, 8)}, "E0378", "which 1x3x8 does not fit"),
        ({"x": (1, 4, 8, 8)}, "E0378", "which 1x4x8x8 does not fit"),
        ({"image": (1,)}, "E0378", "the model has no input `image`"),
        ({"x": (1, 3, 8, 8), "u": (2, 4)}, "E0378", "`n` is 1 in `x`"),
    ],
)
def test_what_is_missing_or_does_not_fit(
    shapes: dict[str, tuple[int, ...]], code: str, says: str, module: Module
) -> None:
    with pytest.raises(PlanError) as raised:
        bucket(shapes).run(module, Scope())
    found = raised.value.diagnostics[0]
    assert (found.code, says in found.message) == (code, True)


def test_a_decoder_has_tokens(target: Module) -> None:
    with pytest.raises(PlanError, match="is a decoder"):
        bucket({"input_ids": (1, 4)}).run(target, Scope())


def test_settings_that_contradict_each_other() -> None:
    assert Bucket().validate()
    assert Bucket(shapes=(InputShapes({"x": (1,)}),), tokens=(1,)).validate()
    assert bucket({"x": (1,)}, {"x": (1,)}).validate()
    assert not bucket({"x": (1,)}, {"x": (2,)}).validate()


def test_a_plan_and_the_bucket_that_fits(module: Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.edge"
    line = "bucket (shapes = [{ x: [1, 3, 8, 8], z: [2] }, { x: [2, 3, 4, 4], z: [2] }])"
    plan.write_text(
        f'device host\nmodel m {{ source = onnx("m.onnx") }}\npipeline p {{ {line} }}\n'
        "deploy m on cpu through p as ort\n"
    )
    assert main(["compile", str(plan), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    arrays = {"x": np.ones((2, 3, 4, 4)), "u": np.ones((2, 4)), "z": np.ones(2)}
    np.savez(tmp_path / "in.npz", **{name: array.astype(np.float32) for name, array in arrays.items()})  # type: ignore[arg-type]
    assert run_graph(tmp_path / "out", tmp_path / "in.npz")["outputs"]["y"]["shape"] == [2, 64]
    plan.write_text(plan.read_text().replace("z: [2] }]", "}]").replace("4, 4], }", "4, 4] }"))
    assert main(["check", str(plan)]) == 1
    assert "E0418" in capsys.readouterr().err
