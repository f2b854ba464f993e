"""`quantize` on a general graph that MNN's converter lowers: its integers in the file, its numbers as it ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.diagnostics.diagnostic import EngineError
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.oracle.oracle import open_session
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.runtime.plain_graph import run_parts
from edgec.compiler.sources.onnx.onnx_source import OnnxSource
from edgec.passes.quantize import Quantize
from edgec.targets.mnn.graph import emit_part

GRAPH = """<ir_version: 10, opset_import: ["" : 17]> m (float[1,16,12,12] x) => (float[1,64] y) {
    h = Conv <pads = [1, 1, 1, 1]> (x, w)
    e = Erf (h)
    a = ReduceMean <axes = [2, 3], keepdims = 0> (e)
    l = MatMul (a, first)
    t = Tanh (l)
    y = MatMul (t, second)
}"""
LINEARS = """<ir_version: 10, opset_import: ["" : 17]> m (float[3,64] x) => (float[3,64] y) {
    l = MatMul (x, first)
    y = MatMul (l, second)
}"""
WRITTEN_OVER = """<ir_version: 10, opset_import: ["" : 17]> m (float[3,64] x) => (float[3,64] y) {
    l = MatMul (x, first)
    e = Erf (l)
    y = MatMul (e, second)
}"""
SHAPES = {"w": (64, 16, 3, 3), "first": (64, 256), "second": (256, 64)}
VALUES = sum(int(np.prod(shape)) for shape in SHAPES.values())


def write(folder: Path, line: str, memory: str, graph: str = GRAPH) -> None:
    model = onnx.parser.parse_model(graph)
    rng = np.random.default_rng(0)
    read = {name for node in model.graph.node for name in node.input}
    for name, shape in [(name, shape) for name, shape in SHAPES.items() if name in read]:
        array = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.save(model, folder / "m.onnx")
    (folder / "p.edge").write_text(
        f'device host\nmodel m {{ source = onnx("m.onnx") }}\npipeline p {{ {line} }}\n'
        f"deploy m on cpu through p as mnn {{ lowering = engine  memory = {memory} }}\n"
    )


def compiled(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """(details of the only part, notes) of the plan in `folder`, compiled to `out` there."""
    made = compile_plan(load_plan(folder / "p.edge"), folder / "out")
    (part,) = load_manifest(folder / "out").parts.values()
    assert part["details"]["lowering"] == "engine"
    return part["details"], made.models[0].notes()


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "out" / "m").glob("*.mnn*"))


def relative(made: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(made - right) / np.linalg.norm(right))


@pytest.mark.parametrize("memory", ["low", "normal"])
@pytest.mark.parametrize(("weights", "most"), [("int8", 10.0), ("int4", 6.0)])
def test_the_file_holds_the_integers_of_quantize(tmp_path: Path, weights: str, most: float, memory: str) -> None:
    """`most`: bits a weight, all else of these small files included."""
    write(tmp_path, f"quantize (weights = {weights}, block = channel)", memory)
    details, notes = compiled(tmp_path)
    assert details["proof"]["weights"] == weights
    assert not any("integers of its own" in note for note in notes)
    assert 8 * size(tmp_path) / VALUES < most
    x = np.random.default_rng(1).normal(size=(1, 16, 12, 12)).astype(np.float32)
    made = run_parts(load_manifest(tmp_path / "out"), "m", {"x": x})["y"]
    module = OnnxSource().load("m", tmp_path / "m.onnx", 0)
    floats = np.asarray(open_session(module.main).run(None, {"x": x})[0])
    Quantize(weights=weights, block="channel").run(module, Scope())  # type: ignore[arg-type]
    integers = np.asarray(open_session(module.main).run(None, {"x": x})[0])
    assert relative(integers, floats) > 0.01  # what rounding once costs; a second time would cost it again
    assert relative(made, integers) < (5e-4 if memory == "normal" else 0.03)  # low rounds activations to 8 bits


def test_blocks_along_the_inputs_are_kept(tmp_path: Path) -> None:
    write(tmp_path, "quantize (weights = int4, block = 32)", "normal", graph=LINEARS)
    details, notes = compiled(tmp_path)
    assert details["proof"]["weights"] == "int4 block 32"
    assert not any("integers of its own" in note for note in notes)
    assert max(details["proof"]["max_error"].values()) < 1e-4


def test_a_value_inside_that_only_the_look_at_it_changes_is_right(tmp_path: Path) -> None:
    """Made an output to be looked at, `l` is written over by Erf; without that MNN computes the graph right."""
    write(tmp_path, "quantize (weights = int8, block = channel)", "normal", graph=WRITTEN_OVER)
    details, _ = compiled(tmp_path)
    assert max(details["proof"]["max_error"].values()) < 1e-4


def test_rounded_again_they_would_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emit_part, "put_integers", lambda _path, _graph: [])
    write(tmp_path, "quantize (weights = int4, block = channel)", "normal")
    with pytest.raises(EngineError, match="with MNN's integers"):
        compiled(tmp_path)


def test_what_a_plan_leaves_in_floats_stays_so(tmp_path: Path) -> None:
    write(tmp_path, 'quantize (weights = int8, block = channel) except "h"', "normal")
    details, notes = compiled(tmp_path)
    assert "weights" not in details["proof"]
    assert any("and `h` has floats" in note for note in notes)
    assert size(tmp_path) > 4 * VALUES
