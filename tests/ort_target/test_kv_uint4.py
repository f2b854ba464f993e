"""`kv = uint4`: two values of a K/V head in a byte, in the graph, in the runner's cache and in the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.driver import check_plan, compile_plan, load_plan
from edgec.compiler.ir.packed_cache import ChannelScales, unpacked
from edgec.compiler.runtime.decoder_inputs import as_float
from edgec.compiler.runtime.generate import Runner
from edgec.passes.quantization.kv_uint4 import _best

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAN = f"""
device host
model m {{{{ source = hf("{EXAMPLES}/models/pycode-qwen2")  context = 64 }}}}
calibration {{{{ text = "{EXAMPLES}/text/calibration.txt"  samples = 4  length = 64 }}}}
pipeline p {{{{ {{bucket}} }}}}
deploy m on cpu through p as {{target}} {{{{ kv = uint4 }}}}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kv4")
    text = PLAN.format(bucket="bucket (tokens = [1, 4], context = [32, 64])", target="ort")
    (folder / "plan.edge").write_text(text)
    return compile_plan(load_plan(folder / "plan.edge"), folder / "bundle").bundle


def test_ranges_of_channels_have_the_least_error_of_those_tried() -> None:
    rng = np.random.default_rng(0)
    wide, far = np.array([[1.0, 7.0, 1.0], [1.0, 1.0, 0.0]]), np.array([[0, 5, 90], [0, 0, 3]])  # the last is constant
    x = (rng.normal(size=(3, 2, 40, 3)) * wide[:, None] + far[:, None]).astype(np.float32)
    scales = _best(x)

    def error(scale, zero):
        q = np.clip(np.rint(x / scale[:, None]) + zero[:, None], 0, 15)
        return (((q - zero[:, None]) * scale[:, None] - x) ** 2).mean(axis=(0, 2))

    low, high = x.min(axis=(0, 2)), x.max(axis=(0, 2))
    step = np.maximum((high - low) / 15, 1e-5)
    whole = error(step, np.rint(7.5 - (high + low) / 2 / step))
    assert (error(scales.scale, scales.zero) <= whole + 1e-6).all()
    assert error(scales.scale, scales.zero)[0, 1] < 0.95 * whole[0, 1]
    assert error(scales.scale, scales.zero)[0, 2] < 0.05  # 90 away from 0, it has all its levels
    assert error(scales.scale, scales.zero)[1, 2] < 1e-8
    assert scales.scale[0, 1] > 3 * scales.scale[0, 0]


def test_bytes_hold_one_channel_of_each_half() -> None:
    scale = np.array([[0.5, 1.0, 2.0, 4.0], [2.0, 2.0, 2.0, 2.0]], np.float32)
    zero = np.array([[8, 8, -3, 20], [0, 0, 0, 0]], np.float32)
    stored = np.array([0x1F, 0xA0], np.uint8).reshape(1, 1, 1, 2).repeat(2, axis=1)
    back = unpacked(stored, ChannelScales(scale, zero))
    q = np.array([[15, 0, 1, 10]], np.float32)
    assert np.array_equal(back[0, 0], (q - zero[0]) * scale[0])
    assert np.array_equal(back[0, 1], q * 2)
    packed = {"values_per_byte": 2, "scale": scale.tolist(), "zero_point": zero.astype(int).tolist()}
    assert np.array_equal(as_float(stored, {"packed": packed}), back)


def test_calls_give_the_same_logits_however_they_are_cut(bundle: Path) -> None:
    """Past and new positions are rounded alike: what a position scores does not hang on the bucket it came through."""
    runner = Runner(bundle)
    ids = runner.tokenizer.encode("def mean(values):\n    return sum(values) / len(values)\n")[:30]
    model = runner.engine("m")
    whole = model.forward(ids)
    model.reset()
    pieces = np.concatenate([model.forward(ids[:1]), model.forward(ids[1:6]), model.forward(ids[6:])])
    assert np.abs(whole - pieces).max() < 2e-3 * np.abs(whole).max()
    model.rollback(10)
    again = model.forward(ids[10:])
    assert np.abs(again - whole[10:]).max() < 2e-3 * np.abs(whole).max()
    assert model.cache.forms()["past_key_0"][1] == np.uint8
    runner.close()


def test_the_manifest_says_what_the_runner_holds(bundle: Path) -> None:
    data = json.loads((bundle / "manifest.json").read_text())
    entry = data["models"]["m"]
    arch, kv = entry["arch"], entry["kv"]
    assert (kv["dtype"], kv["type"], kv["values_per_byte"]) == ("uint8", "uint4", 2)
    values = 2 * arch["layers"] * arch["kv_heads"] * arch["head_dim"] * 64
    assert data["memory"]["m"]["kv"]["t1_c64"] == values // 2
    runner = Runner(bundle)
    model = runner.engine("m")
    model.forward([1] * 40)
    assert abs(model.cache.nbytes / data["memory"]["m"]["kv_held"] - 1) < 0.05
    runner.close()


def test_a_prefix_holds_bytes(bundle: Path, tmp_path: Path) -> None:
    runner = Runner(bundle)
    ids = runner.tokenizer.encode("def mean(values):\n    return sum(")
    first = runner.generate(ids, 4, prefix=tmp_path / "p.kv")
    second = runner.generate(ids, 4, prefix=tmp_path / "p.kv")
    assert second["prefix_tokens"] == len(ids) - 1
    assert second["tokens"] == first["tokens"]
    runner.close()


@pytest.mark.parametrize(
    ("target", "bucket", "named"), [("mnn", "", "mnn"), ("qnn", "bucket (tokens = [1], context = [64])", "qnn")]
)
def test_other_targets_refuse_it_by_name(tmp_path: Path, target: str, bucket: str, named: str) -> None:
    text = PLAN.format(bucket=bucket or "quantize (weights = int8)", target=target)
    if target == "qnn":
        text = text.replace("device host", "device snapdragon_8_gen_3").replace("on cpu", "on npu")
    path = tmp_path / "plan.edge"
    path.write_text(text)
    found = [one for one in check_plan(path, fast=True)[1] if one.code == "E0221"]
    assert [f"`as {target}`" in one.message for one in found] == [True]


def test_it_needs_a_calibration_text(tmp_path: Path) -> None:
    path = tmp_path / "plan.edge"
    text = PLAN.format(bucket="quantize (weights = int8)", target="ort")
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("calibration")))
    errors = [one for one in check_plan(path, fast=True)[1] if one.severity == "error"]
    assert [one.code for one in errors] == ["E0454"]
    assert "`kv = uint4` needs" in errors[0].message
