"""`lut_gemv`: which linears it takes, which it leaves and why, and what it keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from edgec.compiler.ir.annotations import ended_facts
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.sparsity import SPARSITY
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.plan.devices import devices
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.passes.lookup import device_times, host_times
from edgec.passes.lookup.device_times import estimate, worst
from edgec.passes.lut_gemv import LutGemv
from edgec.passes.quantize import Quantize
from edgec.passes.sparsify import Sparsify

MLP = "layers.0.mlp.*_proj"


@pytest.fixture
def module(stage):
    return stage("m", "pycode-qwen2", 64, Level.COMPRESSED)


def quantised(model_folder, **words):
    module = load_hf("m", model_folder, 64)
    Quantize(**words).run(module, Scope(except_=("embed_tokens", "lm_head")))
    module.level = Level.COMPRESSED
    return module


@pytest.fixture
def folder():
    from pathlib import Path

    return Path(__file__).resolve().parents[2] / "examples" / "models" / "pycode-qwen2"


def own(module):
    return [linear for linear in linears(module) if linear.kind == "own"]


def test_it_keeps_the_numbers(module):
    result = run_and_check(LutGemv(when="always"), module, except_=("lm_head",))
    assert result.ops.count("LutGemv") == result.changes == 14


@pytest.mark.parametrize("words", [
    {"weights": "int1", "block": 32},
    {"weights": "ternary", "block": 128},
    {"weights": "int2", "block": 32},
    {"weights": "int3", "block": 64},
    {"weights": "int4", "block": 32, "symmetric": False},
    {"weights": "int2", "block": 128, "symmetric": False},
], ids=str)  # fmt: skip
def test_integers_scales_and_zero_points_are_those_of_quantize(folder, words):
    module = quantised(folder, **words)
    before = {linear.name: linear for linear in linears(module.clone()) if linear.quant is not None}
    taken = LutGemv(when="always").run(module, Scope())
    found = own(module)
    assert taken == len(found) > 0
    for linear in found:
        was, now = before[linear.name].quant, linear.quant
        assert was is not None
        assert now is not None
        assert now.format == was.format
        assert np.array_equal(now.q.numpy().astype(int), was.q.numpy().astype(int))
        assert np.array_equal(now.scale.numpy(), was.scale.numpy())
        if was.zero_point is not None and now.zero_point is not None:
            assert np.array_equal(now.zero_point.numpy().astype(int), was.zero_point.numpy().astype(int))
        assert np.array_equal(linear.weight().rows(3, 50), before[linear.name].weight().rows(3, 50))


def reasons(module, pass_, **scope):
    held = Scope(**scope)
    pass_.run(module, held)
    return {skip.node: skip.reason for skip in held.skips}


def test_what_it_leaves_has_a_reason(folder):
    module = quantised(folder, weights="int8", block=32)
    said = reasons(module, LutGemv(when="always"))
    assert "8 bits" in said["layers.0.mlp.up_proj"]
    assert "looked up by rows" in said["embed_tokens"]
    assert "`quantize` it first" in said["lm_head"]
    module = quantised(folder, weights="int4", block="channel")
    assert "one scale per output" in reasons(module, LutGemv(when="always"))["layers.0.mlp.up_proj"]
    module = quantised(folder, weights="int4", block=16)
    assert "blocks have 16 inputs" in reasons(module, LutGemv(when="always"))["layers.0.mlp.up_proj"]
    module = quantised(folder, weights="int4", block=32)
    assert "does not name 4" in reasons(module, LutGemv(when="always", bits=(2,)))["layers.0.mlp.up_proj"]


@pytest.mark.parametrize(("held", "taken"), [((1e-6, 2e-6), True), ((2e-6, 1e-6), False), (None, False)])
def test_auto_goes_by_the_times(module, monkeypatch, held, taken):
    monkeypatch.setattr(host_times, "times", lambda *_: held)
    scope = Scope(on=(MLP,))
    assert LutGemv().run(module, scope) == (3 if taken else 0)
    said = {skip.reason for skip in scope.skips}
    assert said == (set() if taken else {"one token takes 2 us by lookup and 1 us by MatMulNBits"} if held else {
        "there is no kernel on this machine to measure"
    })  # fmt: skip


PHONE = devices()["snapdragon_8_gen_3"]


@pytest.mark.parametrize(("held", "taken"), [((1e-6, 2e-6), 3), ((2e-6, 1e-6), 0)])
def test_auto_estimates_for_a_phone(module, monkeypatch, held, taken):
    monkeypatch.setattr(device_times, "estimate", lambda *_, **__: held)
    scope = Scope(on=(MLP,), chips=(PHONE,))
    assert LutGemv().run(module, scope) == taken
    assert len(scope.tables[0].rows) == 3
    if not taken:
        said = "on snapdragon_8_gen_3 one token is estimated at 2 us by lookup and 1 us by MatMulNBits"
        assert scope.skips[0].reason == said


def test_auto_leaves_a_device_of_which_too_little_is_known(module):
    scope = Scope(on=(MLP,), chips=(PHONE, replace(PHONE, name="other", cores=())))
    assert LutGemv().run(module, scope) == 0
    assert "too little is known of `other`" in scope.skips[0].reason
    assert LutGemv(when="always").run(module, Scope(on=(MLP,), chips=(PHONE,))) == 3


def test_the_estimate_goes_by_bits_shape_tokens_cores_and_memory():
    def gain(*what, chip=PHONE, **words):
        found = estimate(chip, *what, **words)
        assert found is not None
        return found[1] / found[0]

    assert gain(4096, 4096, 2, 128, 8) > 1.2
    by_bits = [gain(4096, 4096, bits, 128, 8) for bits in (1, 2, 3, 4)]
    assert by_bits[0] > by_bits[1] > by_bits[3]
    assert gain(64, 4096, 2, 128, 8) < by_bits[1]  # tables are made for few outputs
    assert gain(4096, 4096, 2, 128, 32) < by_bits[1]  # tables of floats
    assert gain(4096, 131072, 2, 128, 8) < by_bits[1]  # tables that no L2 holds
    assert gain(4096, 4096, 2, 128, 8, tokens=8) > by_bits[1]  # what is computed counts, no longer what is read
    lone = replace(PHONE, cores=(replace(PHONE.cores[0], count=1),))
    assert gain(4096, 4096, 4, 128, 8, chip=lone) < gain(4096, 4096, 4, 128, 8)  # one core does not wait for memory
    older = replace(PHONE, cores=(replace(PHONE.cores[0], name="Cortex-A53"),))
    assert estimate(older, 4096, 4096, 2, 128, 8) is None
    assert worst([("a", (1.0, 2.0)), ("b", (1.0, 1.5))])[0] == "b"


def test_auto_makes_no_second_copy_of_a_tied_head(folder):
    module = load_hf("m", folder, 64)
    Quantize(weights="int4", block=32).run(module, Scope())
    module.level = Level.COMPRESSED
    scope = Scope(on=("lm_head",))
    assert LutGemv().run(module, scope) == 0
    assert "second copy" in scope.skips[0].reason


def test_times_are_measured_once(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path))
    asked = []
    monkeypatch.setattr(host_times, "measure", lambda *what, **_: asked.append(what) or (1.0, 2.0))
    first = host_times.times(64, 64, 2, 32, False)
    if first is None:
        pytest.skip("no kernels here")
    assert host_times.times(64, 64, 2, 32, False) == first == (1.0, 2.0)
    assert len(asked) == 1
    large = host_times.times(151936, 2048, 2, 32, False)
    assert asked[1][0] == 8192
    assert large is not None
    assert large[0] == pytest.approx(151936 / 8192)


@pytest.mark.parametrize(("prefill", "held", "rows"), [
    ("gemv", (2.0, 1.0), 0), ("dequant", (1.0, 2.0), 9), ("auto", (2.0, 1.0), 9), ("auto", (1.0, 2.0), 0),
    ("auto", None, 0),
])  # fmt: skip
def test_prompts_go_by_the_line_or_by_the_times(module, monkeypatch, prefill, held, rows):
    monkeypatch.setattr(host_times, "prompt_times", lambda *_: held)
    LutGemv(when="always", prefill=prefill).run(module, Scope(on=(MLP,)))
    assert {linear.node.attributes.get_int("dequantise", 0) for linear in own(module)} == {rows}


def test_a_pattern_of_zeros_goes_along(folder):
    module = load_hf("m", folder, 64)
    Sparsify().run(module, Scope(on=(MLP,)))
    Quantize(weights="int4", block=32).run(module, Scope(on=(MLP,)))
    module.level = Level.COMPRESSED
    LutGemv(when="always").run(module, Scope())
    (linear, *_) = own(module)
    assert linear.quant is not None
    assert str(SPARSITY.get(linear.quant.q)) == "2:4"
    assert not ended_facts(module)
