"""Joined linears on every engine: the logits are those of the bundle without `fuse`, and verify finds the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.runtime.engines import open_model
from edgec.compiler.verify.verify_bundle import verify_bundle

ROOT = Path(__file__).resolve().parents[2]
PLAN = """plan p
device {device}
model m {{ source = hf("{root}/examples/models/pycode-qwen2")  context = 64 }}
calibration {{ text = "{root}/examples/text/calibration.txt"  samples = 4  length = 64 }}
pipeline p {{
  {fuse}
  {steps}
}}
deploy m on {on} through p as {target}
"""
CPU = 'quantize (weights = int8, block = channel)  on "layers.*"'
NPU = """quantize (weights = int8, block = channel, activations = uint16)  on "layers.*"
  bucket (tokens = [8], context = [64])"""
HOSTS = {"ort": ("host", "cpu", CPU), "mnn": ("host", "cpu", CPU), "qnn": ("snapdragon_8_gen_3", "npu", NPU)}


def compiled(folder: Path, target: str, fuse: str) -> Path:
    device, on, steps = HOSTS[target]
    path = folder / f"{target}{len(fuse)}.edge"
    path.write_text(PLAN.format(device=device, root=ROOT, fuse=fuse, steps=steps, on=on, target=target))
    compile_plan(load_plan(path), path.with_suffix(""))
    return path.with_suffix("")


def logits(bundle: Path) -> np.ndarray:
    model = open_model(load_manifest(bundle), "m")
    try:
        return np.asarray(model.forward([40, 51, 62, 7, 9]))
    finally:
        model.close()


@pytest.mark.parametrize("target", list(HOSTS))
def test_the_engine_computes_the_same(tmp_path: Path, target: str) -> None:
    plain, fused = (compiled(tmp_path, target, line) for line in ("", "fuse ()"))
    held = {row["name"]: row for row in load_manifest(fused).model("m")["weights"]}
    assert "layers.1.mlp.gate_up_proj" in held
    assert "layers.1.mlp.up_proj" not in held
    before, after = logits(plain), logits(fused)
    # on HTP one range of results is that of three
    assert np.abs(before - after).max() <= (2e-3 if target == "qnn" else 1e-4) * np.abs(before).max()
    found = verify_bundle(fused)
    assert found["ok"], found["problems"]
    assert all(facts["emission"] is not None for facts in found["parts"].values())
