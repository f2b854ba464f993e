"""A shadow from the plan to the emulator: the linears on the NPU, their outliers on the CPU beside it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.bundle.schedule import Schedule
from edgec.compiler.driver import check_plan, compile_plan, load_plan
from edgec.compiler.runtime.expected_time import expected_time
from edgec.compiler.runtime.generate import run_bundle
from edgec.compiler.verify.verify_bundle import verify_bundle
from edgec.targets.qnn.twins import bundled_graph

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "models"
PLAN = """plan beside
device snapdragon_8_gen_3
model m {{ source = hf("{model}")  context = 64 }}
calibration {{ text = "{root}/examples/text/calibration.txt"  samples = 4  length = 64 }}
pipeline p {{
  quantize (weights = int8, block = channel)                       on "lm_head"
  quantize (weights = int8, block = channel, activations = uint8)  on "layers.*"
  shadow   (rare = read, rare_channels = 4)                        on ["layers.*.self_attn.?_proj", "layers.*_proj"]
  bucket   (tokens = [16], context = [64])
}}
deploy m on npu through p as qnn
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shadow")
    spec = importlib.util.spec_from_file_location("outliers", EXAMPLES / "outliers.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    model = script.make(EXAMPLES / "pycode-qwen2", folder / "model", 4, 60.0, 30.0)
    (folder / "plan.edge").write_text(PLAN.format(root=ROOT, model=model))
    compile_plan(load_plan(folder / "plan.edge"), folder / "out")
    return folder / "out"


def test_the_schedule_has_two_lanes(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    (bucket,) = manifest.buckets("m")
    schedule = Schedule.of_bucket(bucket)
    shadows = [part for part in schedule.lanes["cpu"] if part != schedule.parts[0]]
    assert len(schedule.overlaps()) >= len(shadows) >= 4
    contexts = {manifest.parts[part]["file"] for part in schedule.lanes["npu"]}
    assert len(contexts) == 1
    kept = {t.node for t in schedule.transfers if t.node.endswith("q_proj.shadow")}
    assert kept == {"layers.0.self_attn.q_proj.shadow", "layers.1.self_attn.q_proj.shadow"}
    names = (".shadow.hot", ".shadow")
    held = [np.prod(row["shape"]) for row in manifest.model("m")["weights"] if row["name"].endswith(names)]
    assert 0 < sum(held) < 0.05 * sum(np.prod(row["shape"]) for row in manifest.model("m")["weights"])


def test_the_npu_rounds_to_the_range_and_does_not_clip(bundle: Path) -> None:
    """What the integers cannot hold rounding cuts off: the linears' part has no Clip of its own."""
    manifest = load_manifest(bundle)
    (bucket,) = manifest.buckets("m")
    beside = {npu for pair in Schedule.of_bucket(bucket).overlaps() for npu in pair if ".npu" in npu}
    assert beside
    for part in beside:
        graph = ir.load(bundled_graph(bundle, manifest.part(part), bucket["name"])).graph
        ops = {node.op_type for node in graph}
        assert "MatMul" in ops
        assert not ops & {"Clip", "Add", "Attention"}


def test_every_part_is_verified_and_the_lanes_run(bundle: Path) -> None:
    found = verify_bundle(bundle)
    assert found["ok"], found["problems"]
    assert all(facts["emission"] is not None for facts in found["parts"].values())
    made = run_bundle(bundle, "def f(", 3)
    assert made["lanes"].keys() == {"npu", "cpu"}
    assert all(facts["seconds"] > 0 for facts in made["lanes"].values())


def test_what_a_run_will_take_counts_a_binary_once(bundle: Path) -> None:
    """All parts on the NPU have the size of their common file: said of each, two seconds were half a minute."""
    assert expected_time(load_manifest(bundle), "m") is None


def test_rare_rows_are_read_from_a_mapped_file(bundle: Path) -> None:
    """The integers of all channels lie in the weights' file by inputs; a call gathers rows of them."""
    manifest = load_manifest(bundle)
    reads = 0
    for part in manifest.parts_of("m"):
        entry = manifest.part(part)
        if entry["device"] == "cpu":
            graph = ir.load(bundle / next(iter(entry["graphs"].values()))["file"]).graph
            found = [
                node for node in graph if node.op_type == "Gather" and (node.name or "").endswith(".rare.integers")
            ]
            held = [node.inputs[0] for node in found]
            assert all(isinstance(one.const_value, ir.ExternalTensor) for one in held if one is not None)
            reads += len(found)
    assert reads >= 4
    text = (bundle / "report.html").read_text()
    assert "hides behind the NPU" in text
    assert "The CPU beside the NPU of Snapdragon 8 Gen 3" in text


def test_what_the_npu_has_no_form_for_in_a_shadow_is_no_news(bundle: Path) -> None:
    """TopK and ReduceMax of `rare = read` are the CPU's by their pass: no way there and back that a plan could name."""
    assert "W0603" not in {one.code for one in check_plan(bundle.parent / "plan.edge")[1]}


def test_the_report_times_every_part_beside_the_npu(bundle: Path) -> None:
    """A row for each, in each bucket: before the model was cut all of them were one."""
    manifest = load_manifest(bundle)
    (bucket,) = manifest.buckets("m")
    schedule = Schedule.of_bucket(bucket)
    shadows = {t.reader for t in schedule.transfers if t.reader in schedule.lanes["cpu"]}
    told = re.search(r"hides behind the NPU in (\d+) of (\d+) calls", (bundle / "report.html").read_text())
    assert told is not None
    assert int(told[2]) == len(shadows) >= 4
