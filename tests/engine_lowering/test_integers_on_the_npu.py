"""A general graph with integer weights and activations, as the QNN provider lowers it: convolution and product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.driver import CompileOptions, compile_plan, load_plan
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.ir.samples import Samples
from edgec.compiler.oracle import oracle
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.runtime.plain_graph import run_parts
from edgec.compiler.sources.onnx.onnx_source import OnnxSource
from edgec.passes.quantize import Quantize
from edgec.targets.qnn.lower import engine
from edgec.targets.qnn.lower.engine import as_it_stands

TEXT = """<ir_version: 10, opset_import: ["" : 17]> m (float[1,3,8,8] x) => (float[1,5] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    r = Relu (c)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    m = MatMul (f, u)
    y = Add (m, b)
}"""
PLAN = """device snapdragon_8_gen_3
model m { source = onnx("m.onnx")  sample = "in.npz" }
pipeline p { quantize (weights = int8, block = channel, activations = uint8) }
deploy m on npu through p as qnn { accept = W0601  reason = "a test" }
"""


def written(folder: Path) -> np.ndarray:
    """The model and its samples; the samples [N,1,3,8,8]."""
    rng, model = np.random.default_rng(0), onnx.parser.parse_model(TEXT)
    for name, shape in {"w": (16, 3, 3, 3), "u": (16, 5), "b": (5,)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    onnx.save(model, folder / "m.onnx")
    samples = rng.normal(size=(6, 1, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "in.npz", x=samples)
    return samples


def test_weights_of_products_lie_as_they_are_read(tmp_path: Path) -> None:
    samples = written(tmp_path)
    module = OnnxSource().with_samples([tmp_path / "in.npz"]).load("m", tmp_path / "m.onnx", 0)
    assert isinstance(module.samples, Samples)
    Quantize(weights="int8", block="channel", activations="uint8").run(module, Scope())
    assert "Transpose" in [node.op_type for node in module.main.graph]
    made = as_it_stands(module.main, "g").model
    assert "Transpose" not in [node.op_type for node in made.graph]
    (product,) = (node for node in made.graph if node.op_type == "MatMul")
    weight = product.inputs[1].producer() if product.inputs[1] is not None else None
    assert weight is not None
    assert weight.attributes.get_int("axis", 0) == 1
    ours = oracle.run(made, {"x": samples[0].astype(np.float16)})["y"]
    np.testing.assert_allclose(ours, oracle.run(module.main, {"x": samples[0]})["y"], rtol=2e-3, atol=2e-2)


def test_the_npu_takes_all_of_it(tmp_path: Path) -> None:
    samples = written(tmp_path)
    (tmp_path / "p.edge").write_text(PLAN)
    compile_plan(load_plan(tmp_path / "p.edge"), tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    assert [part["target"] for part in manifest.parts.values()] == ["qnn"]
    (expected,) = session(str(tmp_path / "m.onnx")).run(None, {"x": samples[5]})
    made = run_parts(manifest, "m", {"x": samples[5]})["y"]
    assert np.abs(made - expected).max() < 0.05 * np.abs(expected).max()


def test_what_reads_a_rejected_weight_runs_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The DequantizeLinear of a weight goes with its reader: by itself it would come back with it."""
    monkeypatch.setattr(engine, "_turn_weights", lambda _graph: None)
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))  # what the verdict would else be found in
    written(tmp_path)
    (tmp_path / "p.edge").write_text(PLAN)
    said: list[str] = []
    compile_plan(load_plan(tmp_path / "p.edge"), tmp_path / "out", CompileOptions(progress=said.append))
    targets = {part["target"] for part in load_manifest(tmp_path / "out").parts.values()}
    assert targets == {"qnn", "ort"}
    assert any("(MatMul) is rejected with its `MatMul_0.dequant`" in line for line in said)
