"""Parts of a plain graph together: what each loses alone may be too much in a row, and branches are cut around."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.compile.observe_shapes import observe_shapes
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.driver import CompileOptions, compile_plan, load_plan
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.oracle.probes import Probes, Trial
from edgec.compiler.runtime.plain_graph import run_parts
from edgec.compiler.verify.verify_bundle import verify_bundle

HEAD = '<ir_version: 10, opset_import: ["" : 17]> m '
# float16 holds 1000 + p in steps of a half: right to a thousandth of its range, and nothing is left of p behind it
CANCELS = (
    HEAD
    + """(float[1,4,8,8] x) => (float[1,4,6,6] y) {
    h = Conv (x, w)
    p = Sigmoid (h)
    a = Add (p, big)
    b = Relu (a)
    y = Sub (b, big)
}"""
)
BRANCH = (
    HEAD
    + """(bool c, float[1,3,8,8] x) => (float[1,2,17,17] y) {
    h = ConvTranspose <strides = [2, 2]> (x, w)
    k = Neg (h)
    i = If (c) <then_branch = a () => (float[1,2,17,17] u) { u = Tanh (h) },
                else_branch = b () => (float[1,2,17,17] v) { v = Sigmoid (k) }>
    y = HardSigmoid (i)
}"""
)


def plan(folder: Path, text: str, target: str, pinned: str = "", **arrays: np.ndarray) -> Path:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    for node in model.graph.node:
        node.name = node.op_type.lower()
    onnx.save(model, folder / "m.onnx")
    steps = f"pipeline p {{ place(device = cpu) on {pinned} }}\n" if pinned else ""
    device, place = ("snapdragon_8_gen_3", "npu") if target.startswith("qnn") else ("host", "cpu")
    deploy = f"deploy m on {place} {'through p ' if pinned else ''}as {target}\n"
    (folder / "p.edge").write_text(f'device {device}\nmodel m {{ source = onnx("m.onnx") }}\n{steps}{deploy}')
    return folder / "p.edge"


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32) / 3


def off(folder: Path, **feeds: np.ndarray) -> float:
    """How far the bundle's outputs are from ONNX Runtime's on the file itself, of the largest value."""
    opened = session(str(folder / "m.onnx"))
    made = run_parts(load_manifest(folder / "out"), "m", feeds)
    (right,) = opened.run(["y"], feeds)
    return float(np.abs(made["y"] - right).max() / np.abs(right).max())


CANCELLING = {"pinned": '["sigmoid", "sub"]', "w": normal(4, 4, 3, 3), "big": np.array([1000], np.float32)}


def test_the_part_that_loses_too_much_for_those_behind_it_moves(tmp_path: Path) -> None:
    said: list[str] = []
    path = plan(tmp_path, CANCELS, "qnn", **CANCELLING)
    made = compile_plan(load_plan(path), tmp_path / "out", CompileOptions(progress=said.append))
    manifest = load_manifest(tmp_path / "out")
    assert [part["target"] for part in manifest.parts.values()].count("qnn") == 1
    assert off(tmp_path, x=normal(1, 4, 8, 8)) < 5e-3
    (note,) = [note for note in made.models[0].notes() if "beside qnn" in note]
    assert "`add` (Add), with 1 more node, is in `m.npu2`" in note
    proof = manifest.models["m"]["proof"]["main"]
    assert proof["arithmetic"] == "float16"
    assert proof["max_error"]["y"] <= proof["bound"]
    assert any("its 4 parts together, 2 runs, about" in line for line in said)


def test_without_a_fallback_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as raised:
        compile_plan(load_plan(plan(tmp_path, CANCELS, "qnn { fallback = none }", **CANCELLING)), tmp_path / "out")
    assert [one.code for one in raised.value.diagnostics] == ["E0509"]
    assert not (tmp_path / "out").exists()


def test_unless_the_parts_are_compared_it_ships_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part passes by itself: nothing else finds it."""
    monkeypatch.setattr("edgec.compiler.compile.prove_chain.prove_chain", lambda *_arguments: {})
    compile_plan(load_plan(plan(tmp_path, CANCELS, "qnn", **CANCELLING)), tmp_path / "out")
    assert off(tmp_path, x=normal(1, 4, 8, 8)) > 0.05


def test_a_branch_runs_on_the_cpu_between_parts_of_the_npu(tmp_path: Path) -> None:
    made = compile_plan(load_plan(plan(tmp_path, BRANCH, "qnn", w=normal(3, 2, 3, 3))), tmp_path / "out")
    parts = load_manifest(tmp_path / "out").parts
    assert [part["target"] for part in parts.values()].count("qnn") == 2
    for c in (False, True):
        assert off(tmp_path, c=np.array(c), x=normal(1, 3, 8, 8)) < 5e-3
    assert any("`if` (If) has a body of its own, and HTP has no control flow" in n for n in made.models[0].notes())
    found = verify_bundle(tmp_path / "out")
    assert found["ok"], found["problems"]


def test_rounding_is_asked_of_some_of_a_graphs_outputs() -> None:
    """What the proof compares inside a graph: its own outputs are not among them."""
    model = ir.from_onnx_text(HEAD + "(float[4] x) => (float[4] y, float[4] z) { y = Exp (x) z = Neg (y) }")
    feeds = {"x": normal(4)}
    moved = Probes(model).rounding(Trial("ordinary", feeds, {"y": np.exp(feeds["x"])}))
    assert list(moved) == ["y"]
    assert 0 < moved["y"] < 1e-5


@pytest.mark.parametrize(("batch", "axes"), [("1", [1, 2]), ("N", [None, None])])
def test_axes_behind_a_branch_are_those_it_has_when_it_runs(batch: str, axes: list[int | None]) -> None:
    """A part that reads what a branch makes would stand in the manifest as reading a number."""
    text = f"""(bool c, float[{batch},2] x) => (float[{batch},2] y) {{
        i = If (c) <then_branch = a () => (float u) {{ u = Tanh (x) }},
                    else_branch = b () => (float v) {{ v = Exp (x) }}>
        y = Neg (i)
    }}"""
    module = Module("m", {"main": ir.from_onnx_text(HEAD + text)})
    made = module.main.graph[0].outputs[0]
    made.shape = None
    observe_shapes(module)
    assert made.shape is not None
    assert [dim if isinstance(dim, int) else None for dim in made.shape] == axes
