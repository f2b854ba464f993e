"""Whether the CPU's work beside the NPU hides: times from shapes and the device table, refused unless forced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edgec.compiler.compile.dry_run import refuse_early
from edgec.compiler.compile.lane_times import QUICK, SLOW, Beside, Work, product
from edgec.compiler.driver import load_plan
from edgec.compiler.estimate.lane_speed import chip_speed
from edgec.compiler.estimate.work import PartWork
from edgec.compiler.plan.devices import Cores, Device, devices

from .conftest import ROOT

PLAN = """plan p
device snapdragon_8_gen_3
model m {{ source = hf("{model}")  context = 1024 }}
calibration {{ text = "{text}"  samples = 8  length = 64 }}
pipeline npu {{
  quantize (weights = int8, block = channel, activations = uint8)  on "layers.*"
  shadow (max_channels = 50%{settings})  on "layers.*"
  bucket (tokens = [{tokens}], context = [1024])
}}
deploy m on npu through npu as qnn
"""


def refused(folder: Path, tokens: int, settings: str = "") -> list:
    path = folder / f"p{tokens}{len(settings)}.edge"
    model, text = ROOT / "examples" / "models" / "pycode-qwen3", ROOT / "examples" / "text" / "calibration.txt"
    path.write_text(PLAN.format(model=model, text=text, tokens=tokens, settings=settings))
    return [one for one in refuse_early(load_plan(path)).refused if one.code == "E0437"]


def test_what_does_not_hide_is_refused_unless_forced(tmp_path: Path, golden_error: Callable[..., None]) -> None:
    (found,) = refused(tmp_path, 512)
    golden_error("E0437", [found], hide={str(tmp_path): "TMP"})
    assert not refused(tmp_path, 512, ", force = true")
    assert not refused(tmp_path, 1)


PHONE = Device("p", "Phone", arch="v75", cores=(Cores("big", 1, 3.0), Cores("small", 4, 2.0)), bandwidth_gbs=50.0)


def test_times_are_those_of_the_chip_s_lanes() -> None:
    work = product(64, 32, 1000)
    assert work == Work(2 * 64 * 32 * 1000, 4 * (32 * 1000 + 64 * 1000))
    lanes = chip_speed(PHONE).lanes
    part = PartWork("p", "cpu", weights=work.bytes, macs=32 * 1000)
    for tokens in (1, 64):
        assert lanes["cpu"].of(2 * 32 * 1000 * tokens, work.bytes) == lanes["cpu"].seconds(part, tokens, 0)
    elite = chip_speed(devices()["snapdragon_8_elite"]).lanes["cpu"]
    assert lanes["cpu"].weights / 50.0 == pytest.approx(elite.weights / 84.8)
    assert lanes["cpu"].flops / 11.0 == pytest.approx(elite.flops / (2 * 4.32 + 6 * 3.53))
    linear = product(64, 4096, 1000, 8)
    assert lanes["npu"].least(*linear) == pytest.approx(4096e3 / 50e9)
    fast = Device("p", "Phone", arch="v75", bandwidth_gbs=50.0, npu_int8_tops=1.0)
    assert chip_speed(fast).lanes["npu"].least(*linear) == pytest.approx(linear.operations / 1e12)
    assert lanes["npu"].least(*linear) < lanes["npu"].of(*linear)
    assert not chip_speed(Device("p", "Phone", arch="v75")).lanes


def test_a_verdict_is_of_both_calls() -> None:
    assert Beside("b", ("q",), 1e-5 + QUICK, 1e-5).verdict == "yes"
    assert Beside("b", ("q",), 1.1e-5 + QUICK, 1e-5).verdict == "behind slow calls only"
    assert Beside("b", ("q",), 1.1e-5 + SLOW, 1e-5).verdict == "no"


def test_joined_linears_have_one_shadow() -> None:
    """Four products on the NPU a layer, and one of the CPU beside each; nothing of the weights is read."""
    from edgec.compiler.compile.dry_run import dried
    from edgec.compiler.ir.annotations import SHADOW
    from edgec.compiler.sources.hf.load_hf import load_hf
    from edgec.passes.fuse import Fuse
    from edgec.passes.quantize import Quantize
    from edgec.passes.shadow import Shadow

    from .test_shadow import scope

    module, dry = dried(load_hf("m", ROOT / "examples" / "models" / "pycode-qwen2", 256)), scope()
    dry.dry = True
    Fuse().run(module, dry)
    Quantize(weights="int8", block="channel", activations="uint8").run(module, dry)
    Shadow().run(module, dry)
    roles = [SHADOW.get(node) for node in module.main.graph]
    assert roles.count("main") == roles.count("sum") == 8
    assert sum(node.op_type == "MatMul" and SHADOW.get(node) == "cpu" for node in module.main.graph) == 8
