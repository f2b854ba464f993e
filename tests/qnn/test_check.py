"""What the qnn target says before any weight is read."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

from edgec.compiler.diagnostics.diagnostic import Diagnostic, Span
from edgec.compiler.emit.target import CheckRequest
from edgec.compiler.pipeline.step import Step
from edgec.compiler.plan.devices import Device, devices
from edgec.compiler.plan.plan import Deploy, ModelDecl, ModelSource, Plan
from edgec.compiler.sources.hf.hf_source import HfSource
from edgec.compiler.sources.hf.read_decoder_arch import read_arch
from edgec.passes.bucket import Bucket
from edgec.passes.place import Place
from edgec.passes.quantize import Quantize
from edgec.targets.qnn import QnnTarget

from .conftest import MODELS

LINE = Span("plan.edge", 9, 1, 9, 40)
BUCKET = Step("bucket", Bucket(tokens=(1, 4), context=(256,)), None, (), LINE)


def quantize(**parameters) -> Step:
    return Step("quantize", Quantize(**parameters), None, (), Span("plan.edge", 6, 3, 6, 39))


def request(device: Device | str = "snapdragon_8_gen_3", *steps: Step) -> CheckRequest:
    chip = devices()[device] if isinstance(device, str) else device
    decl = ModelDecl("target", ModelSource(HfSource(), MODELS / "pycode-qwen3", "models/q"), 256, LINE)
    deploy = Deploy("target", "npu", "npu", "qnn", QnnTarget.Options(), "fp16", LINE)
    plan = Plan("p", Path("plan.edge"), {"target": decl}, (chip,), None, None, {}, (deploy,), (), (), {})
    return CheckRequest(plan, deploy, steps, chip, read_arch(MODELS / "pycode-qwen3"))


def check(*arguments) -> list[Diagnostic]:
    return list(QnnTarget().check(request(*arguments)))


def test_a_good_deployment_draws_nothing():
    assert check("snapdragon_8_gen_3", BUCKET) == []


def test_a_device_without_an_npu(golden_error):
    golden_error("E0601", check("host", BUCKET))


def test_an_architecture_that_was_never_run(golden_error):
    odd = replace(devices()["snapdragon_8_gen_3"], name="snapdragon_888", arch="v68", soc=30)
    golden_error("E0602", check(odd, BUCKET))


def test_another_machine(golden_error, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    golden_error("E0603", check("snapdragon_8_gen_3", BUCKET))


def test_an_npu_without_fp16(golden_error):
    golden_error("E0604", check("snapdragon_8s_gen_3", BUCKET))


def test_a_decoder_without_buckets(golden_error):
    golden_error("E0605", check("snapdragon_8_gen_3"))


def test_a_format_no_phone_is_reported_to_run(golden_error):
    found = check("snapdragon_8_gen_3", quantize(weights="int4", block=32), BUCKET)
    assert [d.severity for d in found] == ["warning"]
    golden_error("W0601", found)


def test_weights_that_stay_on_the_cpu_are_no_matter_of_the_npu():
    rounded = quantize(weights="int8", block=32)
    place = Step("place", Place(device="cpu"), ("embed_tokens", "lm_head"), (), LINE)
    assert check("snapdragon_8_gen_3", replace(rounded, on=("embed_tokens",)), place, BUCKET) == []
    table = replace(rounded, on=("embed_tokens",))  # looked up on the CPU, unless a line has it elsewhere
    assert check("snapdragon_8_gen_3", table, BUCKET) == []
    there = Step("place", Place(device="npu"), ("embed_tokens",), (), LINE)
    assert [one.code for one in check("snapdragon_8_gen_3", table, there, BUCKET)] == ["W0601"]
    for on in (None, ("embed_tokens", "*q_proj")):
        assert [one.code for one in check("snapdragon_8_gen_3", replace(rounded, on=on), place, BUCKET)] == ["W0601"]


def test_layers_with_a_rope_of_their_own_are_refused():
    """The runner feeds an NPU one table of cos and sin: the local layers would be turned by the others' frequencies."""
    plain = request("snapdragon_8_gen_3", BUCKET)
    assert plain.arch is not None
    local = replace(plain.arch, local=(0,), local_rope=replace(plain.arch.rope, theta=10.0))
    found = list(QnnTarget().check(replace(plain, arch=local)))
    assert [one.code for one in found] == ["E0634"]
    assert "frequencies of their own" in found[0].message
