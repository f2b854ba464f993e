"""Ops that HTP has no form for run on the CPU beside it, and the plan is told; a `place` line keeps its word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.driver import check_plan, compile_plan, load_plan
from edgec.compiler.runtime.plain_graph import run_parts
from edgec.compiler.verify.verify_bundle import verify_bundle

BODY = "h = MatMul (x, w)\n s = Softplus (h)\n y = Relu (s)"
PLAN = """plan p
device snapdragon_8_gen_3
model m {{ source = onnx("m.onnx") }}
pipeline p {{ {lines} }}
deploy m on npu through p as qnn {{ lowering = edgec }}
"""


def plan(folder: Path, lines: str = "", body: str = BODY) -> Path:
    text = f'<ir_version: 10, opset_import: ["" : 21]> m (float[4,64] x) => (float[4,32] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    w = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32) / 8
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    for node in model.graph.node:
        node.name = node.op_type.lower()
    onnx.save(model, folder / "m.onnx")
    (folder / "p.edge").write_text(PLAN.format(lines=lines))
    return folder / "p.edge"


def test_the_cpu_runs_what_htp_cannot(tmp_path: Path, golden_error: Callable[..., None]) -> None:
    path = plan(tmp_path)
    told = [one for one in check_plan(path)[1] if one.code == "W0603"]
    golden_error("W0603", told, hide={str(tmp_path): "TMP"})
    compile_plan(load_plan(path), tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    assert sorted(manifest.parts) == ["m.cpu1", "m.npu0", "m.npu2"]
    x = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    made = run_parts(manifest, "m", {"x": x})["y"]
    w = onnx.numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[0])
    assert np.allclose(made, np.log1p(np.exp(x @ w)), atol=2e-2)
    found = verify_bundle(tmp_path / "out")
    assert found["ok"], found["problems"]


def test_a_line_that_wants_the_npu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="E0621"):
        compile_plan(load_plan(plan(tmp_path, 'place (device = npu) on "softplus"')), tmp_path / "out")


def test_a_line_that_says_so_is_not_told_again(tmp_path: Path) -> None:
    told = {one.code for one in check_plan(plan(tmp_path, 'place (device = cpu) on "softplus"'))[1]}
    assert not told & {"E0621", "W0603"}


def test_a_model_of_such_ops_only_is_refused(tmp_path: Path) -> None:
    path = plan(tmp_path, 'place (device = cpu) on "matmul"', "h = MatMul (x, w)\n y = Softplus (h)")
    assert "E0621" in {one.code for one in check_plan(path)[1]}
