"""`kv = uint4`: two values of a K/V head in a byte, in the graph, in the runner's cache and in the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.driver import check_plan, compile_plan, load_plan
from edgec.compiler.ir.packed_cache import groups_of, pack_cache, round_added, row_bytes, unpacked
from edgec.compiler.oracle.oracle import run
from edgec.compiler.runtime.decoder_inputs import as_float
from edgec.compiler.runtime.generate import Runner
from edgec.passes.quantization.kv_uint4 import _weights

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


def test_balanced_keys_score_as_before_and_round_better() -> None:
    """Channels of keys that are large, and far from 0, where queries are small: what their product loses is a third."""
    rng = np.random.default_rng(0)
    wide, far = np.geomspace(0.1, 10, 32), np.linspace(-20, 20, 32)
    queries = rng.normal(size=(400, 32)) / wide
    keys = rng.normal(size=(400, 32)) * wide + far
    weight = _weights((queries**2).mean(0)[None], keys.var(0)[None])[0]
    balanced, turned = (keys - keys.mean(0)) * weight, queries / weight
    moved = turned @ balanced.T - queries @ keys.T
    assert np.abs(moved - moved[:, :1]).max() < 1e-3  # the same for all positions: softmax forgets it
    lost = turned @ (rounded(balanced) - balanced).T
    plain = queries @ (rounded(keys) - keys).T
    assert lost.std() < plain.std() / 3
    assert lost.std() < 0.2 * (turned @ balanced.T).std()


def rounded(x: np.ndarray, base: np.ndarray | None = None) -> np.ndarray:
    """Rows [S,D] as a cache of 4 bits gives them back: through the ops of the graph, and the reader of bytes.

    `base` [D]: what the first position holds.
    """
    value = ir.Value(name="past_key_0_out", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 1, *x.shape]))
    given = ir.Value(name="x", type=value.type, shape=value.shape)
    node = ir.node("Identity", [given], outputs=[value])
    graph = ir.Graph([given], [value], nodes=[node], opset_imports={"": 24}, name="g")
    model = ir.Model(graph, ir_version=11)
    round_added(graph, value, np.zeros((1, x.shape[1])) if base is None else base[None])
    graph.sort()
    feeds = {"x": x[None, None].astype(np.float32)}
    floats = run(model, feeds)["past_key_0_out"]
    pack_cache(graph)
    stored = run(model, feeds)["past_key_0_out"]
    assert (stored.dtype, stored.shape[-1]) == (np.uint8, row_bytes(x.shape[1]))
    count = groups_of(x.shape[1])
    beside = np.repeat(stored[..., -count:] & 1, x.shape[1] // count, axis=-1)
    read = unpacked(stored, count) + (0 if base is None else beside * base)
    assert base is not None or not beside.any()
    assert np.abs(read - floats).max() <= 1e-5 * np.abs(floats).max()
    return floats[0, 0]


def test_what_lies_beside_the_first_positions_values_is_as_exact_as_it_is_near() -> None:
    """A row unlike all others, whose second half is not like it: groups choose alone, and ordinary rows stay."""
    rng = np.random.default_rng(3)
    first = rng.normal(size=64) * np.geomspace(1, 40, 64)
    rows = rng.normal(size=(50, 64))
    rows[0] = first + 0.05 * rng.normal(size=64)
    rows[1, :32] = first[:32] + 0.05 * rng.normal(size=32)
    near, alone = rounded(rows, first), rounded(rows)
    assert np.abs(near - rows)[0].max() < 0.02 < 0.1 * np.abs(alone - rows)[0].max()
    assert np.abs(near - rows)[1, :32].max() < 0.02
    assert np.array_equal(near[2:], alone[2:])
    assert np.array_equal(near[1, 32:], alone[1, 32:])


@pytest.mark.parametrize("width", [32, 64, 80])
def test_every_position_and_group_has_its_own_steps(width: int) -> None:
    rng = np.random.default_rng(width)
    x = rng.normal(size=(50, width)) * np.geomspace(1e-3, 300, 50)[:, None] + rng.normal(size=(50, 1))
    x[7], x[8] = 0, rng.uniform(5, 7, width)
    groups = width // 32 if width % 32 == 0 else 1
    split = x.reshape(50, groups, -1)
    most, least = split.max(-1), split.min(-1)  # of which one end may have to come nearer to 0: 5 to 7 as 2.4 to 7
    step = (np.maximum(most, least * 8 / 23) - np.minimum(least, most * 8 / 23)) / 15 * 2**0.1
    error = np.abs(rounded(x).reshape(split.shape) - split).max(-1)
    assert (error <= 0.63 * step + 1e-5).all()  # half a step, and what an eighth of the zero point leaves
    assert (error[20:] > 0.1 * step[20:]).all()  # four bits, no more


def test_bytes_hold_one_channel_of_each_half() -> None:
    row = np.array([0x1F, 0xA0, 180, 8 * (3 + 8)], np.uint8)  # four channels, one group: a step of 1, zero at 3
    flagged = row + np.array([0, 0, 0, 1], np.uint8)  # beside what the graph alone knows
    assert np.array_equal(unpacked(flagged, 1), unpacked(row, 1))
    assert np.array_equal(unpacked(row, 1), np.array([12, -3, -2, 7], np.float32))
    row[2] += 10
    assert np.allclose(as_float(row, {"packed": {"type": "uint4", "groups": 1}}), [24, -6, -4, 14])


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
    assert (kv["dtype"], kv["type"], kv["row_bytes"]) == ("uint8", "uint4", row_bytes(arch["head_dim"]))
    rows = 2 * arch["layers"] * arch["kv_heads"] * 64
    assert data["memory"]["m"]["kv"]["t1_c64"] == rows * kv["row_bytes"]
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
