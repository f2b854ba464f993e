"""Shadows: the split is exact, the search finds what breaks 8 bits, the model is better for it, the plan's mistakes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from edgec.compiler.calibration.calibration_text import Calibration
from edgec.compiler.calibration.windows import windows
from edgec.compiler.cli import main
from edgec.compiler.commands.profile import run_profile
from edgec.compiler.compile.profile import profiles
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.driver import load_plan
from edgec.compiler.ir.activation_encodings import Encoding, pairs
from edgec.compiler.ir.annotations import SHADOW
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.oracle import DecoderOracle, run
from edgec.compiler.partition.parts import PartGraph, partition
from edgec.compiler.partition.shadows import shadows_on_cpu
from edgec.compiler.pipeline.pass_check import from_text
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.passes.bucket import Bucket
from edgec.passes.outliers.clip_search import STEPS, ChannelValues, search, thresholds
from edgec.passes.outliers.measure import rounded as fixed
from edgec.passes.outliers.profile import read
from edgec.passes.outliers.split import Split, split
from edgec.passes.quantization.clip_ranges import clip_ranges
from edgec.passes.quantization.kv_cache import KvCache
from edgec.passes.quantization.learned_ranges import Training, learned_ranges, rounded
from edgec.passes.quantize import Quantize
from edgec.passes.shadow import Shadow
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import LINEARS, ROOT, SPAN

TEXT = ROOT / "examples" / "text" / "calibration.txt"
CALIBRATION = Calibration((TEXT,), 8, 64, 0, SPAN)
Golden = Callable[..., None]


def scope(*on: str, calibration: Calibration | None = CALIBRATION) -> Scope:
    return Scope(on or None, LINEARS, SPAN, calibration)


def outliers_script() -> ModuleType:
    """examples/models/outliers.py."""
    spec = importlib.util.spec_from_file_location("outliers", ROOT / "examples" / "models" / "outliers.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pycode-qwen2, two layers of 128, with 4 of the channels of each norm scaled by 30 to 60."""
    out = tmp_path_factory.mktemp("shadow") / "outliers"
    return outliers_script().make(ROOT / "examples" / "models" / "pycode-qwen2", out, 4, 60.0, 30.0)


def in_8_bits(folder: Path) -> Module:
    """Its linears int8 per channel with uint8 activations."""
    module = load_hf("m", folder, 256)
    Quantize(weights="int8", block="channel", activations="uint8").run(module, scope())
    module.level = Level.COMPRESSED
    return module


@given(st.data(), st.integers(1, 40), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_split_is_exact(data: st.DataObject, k: int, n: int, rows: int, seed: int) -> None:
    """Whatever the shapes, the hot channels, their signs and the range, as long as only hot channels leave it."""
    chance = np.random.default_rng(seed)
    low, high = data.draw(st.floats(-8, -0.1)), data.draw(st.floats(0.1, 8))
    hot = tuple(sorted(data.draw(st.sets(st.integers(0, k - 1), min_size=1, max_size=k))))
    w = chance.normal(size=(k, n)).astype(np.float32)
    inits = f"<float[{k},{n}] w = {{{', '.join(map(repr, w.ravel().tolist()))}}}>"
    ports = f"(float[B,{k}] x) => (float[B,{n}] y)"
    text = f'<ir_version: 10, opset_import: ["" : 21]> m {ports} {inits} {{ y = MatMul(x, w) }}'
    before, after = from_text(text), from_text(text)
    how = Split(low, high, hot)
    outputs = {}
    if data.draw(st.booleans()):  # the linear's own result is clipped too, where channels are computed again
        ends = data.draw(st.floats(-40, -0.1)), data.draw(st.floats(0.1, 40))
        outputs["MatMul_0"] = Split(*ends, tuple(range(n)))
    if outputs and data.draw(st.booleans()):
        how = Split(-1e6, 1e6)
    split(after.main.graph, list(linears(after)), how, "x", outputs)
    after.main.graph.sort()
    assert not violations(after)
    inside = Split(low, high).encoding
    x = chance.uniform(inside.low, inside.high, (rows, k)).astype(np.float32)
    x[:, list(hot)] *= chance.choice([-60.0, 1.0, 30.0], (rows, len(hot))).astype(np.float32)
    whole, made = (run(module.main, {"x": x})["y"] for module in (before, after))
    assert np.abs(whole - made).max() <= 1e-5 * (np.abs(x) @ np.abs(w)).max()
    if how.hot and np.abs(x[:, list(hot)]).max() > 2 * max(-low, high):  # and it is no clip that never clips
        clipped = np.clip(x, inside.low, inside.high) @ w
        assert np.abs(whole - clipped).max() > 1e-3 * np.abs(x).max() * np.abs(w[list(hot)]).min()


def values_of(x: np.ndarray) -> ChannelValues:
    """What `_Counting` counts, without torch."""
    edges = thresholds(float(np.abs(x).max()))
    place = (np.abs(x)[None] < edges[:, None, None] * (1 - 1e-9)).sum(0)
    sums = np.stack([[(np.abs(x) ** power * (place == step)).sum(0) for step in range(STEPS)] for power in range(3)])
    return ChannelValues(len(x), float(x.min()), float(x.max()), sums, np.square(x).sum(0))


def test_excess_is_what_lies_beyond() -> None:
    x = np.random.default_rng(0).standard_t(3, (500, 6))
    seen = values_of(x)
    for step in (0, 7, 30, STEPS - 1):
        beyond = np.maximum(np.abs(x) - seen.thresholds[step], 0)
        assert np.allclose(seen.excess()[step], np.square(beyond).mean(0), atol=1e-9)


def test_the_search_finds_the_channels_that_break_a_range() -> None:
    x = np.random.default_rng(1).normal(size=(2000, 64))
    x[:, [5, 40]] *= 50
    weights = np.ones(64)
    weights[[5, 40]] /= 2500  # as large for the output as the others
    alone, corrected = search(values_of(x), weights, 0), search(values_of(x), weights, 2, 0.8)
    assert corrected.hot == (5, 40)
    assert corrected.coverage > 0.99
    assert corrected.high < 6 < alone.high
    assert corrected.error < alone.error / 20
    few = search(values_of(x), weights, 1, 0.99)
    assert len(few.hot) == 1
    assert few.needed == 2
    assert few.coverage < 0.99


def test_nothing_is_hot_where_nothing_leaves_the_range() -> None:
    x = np.random.default_rng(2).uniform(-1, 1, (2000, 16))
    found = search(values_of(x), np.ones(16), 2, 0.8)
    assert (found.hot, found.coverage, found.needed, found.clipped) == ((), 1.0, 0, 0)


def test_a_model_with_outliers_is_right_again(variant: Path) -> None:
    plain = load_hf("m", variant, 256)
    ids = np.frombuffer(TEXT.read_bytes()[2000:2064], np.uint8).astype(np.int64)
    exact = DecoderOracle(plain).forward(ids)

    def off(module: Module) -> float:
        return float(np.linalg.norm(DecoderOracle(module).forward(ids) - exact) / np.linalg.norm(exact))

    module = in_8_bits(variant)
    alone, whole = module.clone(), module.clone()
    Shadow(keep_layers=0.0).run(alone, scope())
    told = scope()
    Shadow().run(whole, told)
    assert not violations(whole)
    errors = [off(one) for one in (module, alone, whole)]
    assert errors[2] < 0.5 * errors[1] < 0.5 * errors[0]
    table = {row[0]: row for row in told.tables[0].rows}
    assert table["layers.0.self_attn.q_proj"][4] == "4 of 128"
    assert table["layers.0.self_attn.q_proj"][-1] == "kept"
    again = Shadow().run(whole.clone(), scope())
    assert again == 0
    KvCache().run(whole, scope())  # takes the pairs out, and has to bring the ranges of the Clips back
    ends = {pair.quantize.name: pair.encoding for pair in pairs(whole.main.graph)}
    node = whole.node("layers.0.input_layernorm.clip")
    assert node is not None
    assert ends["layers.0.input_layernorm.clip.act8.quantize"].high == pytest.approx(
        float(module.constant(node.inputs[2]).numpy())  # pyright: ignore[reportOptionalMemberAccess]
    )


def test_half_keeps_the_inputs_that_matter(variant: Path) -> None:
    module, told = in_8_bits(variant), scope()
    Shadow(keep_layers=0.5).run(module, told)
    assert told.profile is not None
    rows = json.loads(told.profile)["linears"]
    kept, pruned = ([row for row in rows if row["hot"] and row["kept"] is one] for one in (True, False))
    assert 0 < len(kept) <= len(rows) / 2
    assert {row["input"] for row in kept}.isdisjoint(row["input"] for row in pruned)
    assert max(row["loss"] for row in pruned) > 0


def test_losses_are_measured_where_they_choose_or_are_asked_for(variant: Path) -> None:
    """They take longer than everything else: nothing hangs on them where every shadow is kept."""
    found = []
    for profiling in (False, True):
        told = scope()
        told.profiling = profiling
        Shadow().run(in_8_bits(variant), told)
        assert told.profile is not None
        held = json.loads(told.profile)
        found.append(({row["loss"] is None for row in held["linears"] if row["hot"]}, held["loss_of_all"] is None))
    assert found == [({True}, True), ({False}, False)]


def parts_of(module: Module) -> PartGraph:
    Bucket(tokens=(4,), context=(64,)).run(module, Scope())
    module.level = Level.STATIC
    assert shadows_on_cpu(module, "npu")
    return partition(module, "npu")


def test_a_shadow_runs_beside_its_linears(variant: Path) -> None:
    module = in_8_bits(variant)
    Shadow().run(module, scope("layers.1.self_attn.[qkv]_proj"))
    found = parts_of(module)
    assert [part.device for part in found.parts] == ["npu", "cpu", "npu", "npu"]
    assert found.schedule().overlaps() == [("m.cpu1", "m.npu2")]
    crossing = {(t.maker, t.reader, t.node) for t in found.transfers if "shadow" in t.node}
    assert crossing == {("m.cpu1", "m.npu3", f"layers.1.self_attn.{one}_proj.shadow") for one in "qkv"}


def test_the_cache_stays_in_one_part(variant: Path) -> None:
    """With a shadow on values alone keys would be made a part earlier, and cross in the cache's own layout."""
    module = in_8_bits(variant)
    Shadow().run(module, scope("layers.*.self_attn.v_proj"))
    assert all("past" not in t.tensor for t in parts_of(module).transfers)


def code_of(action: Callable[[], object]) -> EdgecError:
    with pytest.raises(EdgecError) as raised:
        action()
    return raised.value


def test_16_bits_need_no_shadow(golden_error: Golden) -> None:
    module = load_hf("m", ROOT / "examples" / "models" / "pycode-qwen2", 256)
    Quantize(weights="int8", block="channel", activations="uint16").run(module, scope())
    golden_error("E0431", code_of(lambda: Shadow().run(module, scope())))


def test_too_few_channels(variant: Path, golden_error: Golden) -> None:
    module = in_8_bits(variant)
    golden_error("E0432", code_of(lambda: Shadow(max_channels=0.01, coverage=0.9).run(module, scope("*q_proj"))))


def test_no_quantize_behind_it(variant: Path, golden_error: Golden) -> None:
    module = in_8_bits(variant)
    Shadow().run(module, scope("layers.0.*"))
    golden_error("E0436", code_of(lambda: Quantize(weights="int8", block="channel").run(module, scope())))


PLAN = """plan p
device snapdragon_8_gen_3
model m {{ source = hf("{model}")  context = 128 }}
calibration {{ text = "{text}"  samples = 8  length = 64 }}
pipeline npu {{
  quantize (weights = int8, block = channel, activations = uint8)  except ["lm_head", "embed_tokens"]
  shadow ({settings})  except ["lm_head", "embed_tokens"]
  bucket (tokens = [4], context = [64])
}}
deploy m on npu through npu as qnn
"""


def plan(folder: Path, model: Path, settings: str) -> Path:
    path = folder / "plan.edge"
    path.write_text(PLAN.format(model=model, text=TEXT, settings=settings))
    return path


def test_a_profile_is_used_again_and_for_its_model_only(variant: Path, tmp_path: Path, golden_error: Golden) -> None:
    (made,) = profiles(load_plan(plan(tmp_path, variant, "")), lambda _: None)
    held = tmp_path / "p.json"
    held.write_text(made.text)
    assert read(held).text() == made.text
    with_file = Shadow(profile=str(held), keep_layers=0.5)
    module = in_8_bits(variant)
    one, other = scope(), scope()
    with_file.run(module, one)
    Shadow(keep_layers=0.5).run(in_8_bits(variant), other)
    assert one.profile == other.profile
    plain = ROOT / "examples" / "models" / "pycode-qwen2"
    hide = {str(tmp_path): "TMP"}
    golden_error("E0434", code_of(lambda: with_file.run(in_8_bits(plain), scope())), hide=hide)
    other_settings = Shadow(profile=str(held), coverage=0.9)
    golden_error("E0433", code_of(lambda: other_settings.run(in_8_bits(variant), scope())), hide=hide)


HEAD = {
    "version": 3,
    "model": "",
    "coverage": 0.8,
    "max_channels": 0.03,
    "mode": "both",
    "rare": 0,
    "loss_of_all": None,
}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "no outlier profile"),
        (json.dumps({**HEAD, "linears": [{}]}), "a row"),
        (json.dumps({**HEAD, "linears": []}), "mode = both"),
    ],
)
def test_a_file_that_is_no_profile(tmp_path: Path, content: str | None, why: str) -> None:
    """Found by the dry run: nothing is measured."""
    held = tmp_path / "p.json"
    if content is not None:
        held.write_text(content)
    module = in_8_bits_dry()
    dry = scope()
    dry.dry = True
    error = code_of(lambda: Shadow(profile=str(held)).run(module, dry))
    assert error.diagnostics[0].code == "E0433"
    assert why in error.diagnostics[0].message


LINEAR: dict[str, object] = {
    "name": "layers.0.self_attn.q_proj", "input": "layers.0.input_layernorm", "outputs": 128, "inputs": 128,
    "seen": [-1, 1], "low": -1, "high": 1, "hot": [3], "coverage": 1, "needed": 1, "error": 0, "beyond": 0,
    "alone_low": -1, "alone_high": 1, "alone_error": 0, "output": None, "loss": None, "kept": True,
}  # fmt: skip


@pytest.mark.parametrize("field", ["loss", "coverage", "needed", "alone_error", "beyond"])
def test_words_where_numbers_are(tmp_path: Path, field: str) -> None:
    held = tmp_path / "p.json"
    held.write_text(json.dumps({**HEAD, "linears": [LINEAR]}))
    assert read(held).linears[0].hot == (3,)
    held.write_text(json.dumps({**HEAD, "linears": [{**LINEAR, field: "many"}]}))
    with pytest.raises(ValueError, match="words where numbers are"):
        read(held)


def test_a_profile_is_a_file(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for."""
    os.mkfifo(tmp_path / "p.json")
    with pytest.raises(OSError, match="named pipe"):
        read(tmp_path / "p.json")


def in_8_bits_dry() -> Module:
    from edgec.compiler.compile.dry_run import dried

    module = dried(load_hf("m", ROOT / "examples" / "models" / "pycode-qwen2", 256))
    step = scope()
    step.dry = True
    Quantize(weights="int8", block="channel", activations="uint8").run(module, step)
    return module


def test_the_dry_run_has_the_ops_of_a_compile() -> None:
    module, dry = in_8_bits_dry(), scope(calibration=None)
    dry.dry = True
    Shadow().run(module, dry)
    roles = [SHADOW.get(node) for node in module.main.graph]
    assert roles.count("main") == roles.count("sum") == 14


def test_a_plan_without_profiles(tmp_path: Path, golden_error: Golden) -> None:
    path = plan(tmp_path, ROOT / "examples" / "models" / "pycode-qwen2", "")
    text = path.read_text()
    path.write_text("\n".join(line for line in text.splitlines() if "shadow (" not in line))
    golden_error("E0960", code_of(lambda: profiles(load_plan(path), lambda _: None)))


def test_the_command_writes_one_file(
    variant: Path, tmp_path: Path, golden_error: Golden, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plan(tmp_path, variant, "keep_layers = 50%")
    nowhere = tmp_path / "none" / "p.json"
    words = Namespace(plan=path, defines=[], quiet=True, json=False, output=nowhere)
    with pytest.MonkeyPatch.context() as patch:  # told before anything is measured
        patch.setattr("edgec.compiler.driver.profile_plan", None)
        golden_error("E0961", code_of(lambda: run_profile(words)), hide={str(tmp_path): "TMP"})
    assert main(["profile", str(path), "--quiet", "--output", str(tmp_path / "p.json")]) == 0
    assert "layers.1.mlp.down_proj" in capsys.readouterr().out
    assert main(["profile", str(path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"ok", "profiles", "warnings"}
    assert [row["code"] for row in printed["warnings"]] == [one.code for one in load_plan(path).warnings]
    assert len(read(tmp_path / "p.json").linears) == 14


def test_ranges_for_outputs_and_learned_ones(variant: Path) -> None:
    """What a linear makes of its input is worth more than the input; training loses nothing to where it began."""
    ids = np.frombuffer(TEXT.read_bytes()[2000:2064], np.uint8).astype(np.int64)
    exact = DecoderOracle(load_hf("m", variant, 256)).forward(ids)
    off = {}
    for ranges in ("mse", "clip", "learned"):
        module = load_hf("m", variant, 256)
        Quantize(weights="int8", block="channel", activations="uint8", ranges=ranges).run(module, scope())
        again = Quantize(weights="int8", block="channel", activations="uint8", ranges=ranges).run(module, scope())
        assert again == 0
        off[ranges] = float(np.linalg.norm(DecoderOracle(module).forward(ids) - exact) / np.linalg.norm(exact))
    assert off["clip"] < 0.7 * off["mse"]
    assert off["learned"] < 1.1 * off["clip"]


def test_a_block_that_does_not_gain_keeps_its_ranges(variant: Path) -> None:
    module = load_hf("m", variant, 256)
    narrow = [linear.node for linear in linears(module) if linear.name.startswith("layers.")]
    ids = windows(CALIBRATION, module)[:2]
    first = clip_ranges(module, ids, narrow, lambda _: None)
    wild = learned_ranges(module, ids, narrow, first, lambda _: None, Training(steps=1, rate=5.0))
    assert wild == first
    better = learned_ranges(module, ids, narrow, first, lambda _: None, Training(steps=20))
    assert better != first
    shutil.rmtree(os.environ["EDGEC_CACHE"])  # learned anew it is the same to the last bit
    assert learned_ranges(module, ids, narrow, first, lambda _: None, Training(steps=20)) == better


@given(st.floats(-50, 0), st.floats(0.01, 50), st.integers(0, 2**31))
def test_learned_rounding_is_that_of_the_integers(low: float, high: float, seed: int) -> None:
    x = torch.randn(200, generator=torch.Generator().manual_seed(seed)) * 20
    ends = torch.tensor(low), torch.tensor(high, requires_grad=True)
    made, exact = rounded(x, ends), fixed(x, Encoding.over(low, high, "uint8"))
    assert (
        float((made.detach() - exact).abs().max()) <= (high - low) / 255 * 1.01
    )  # where a half is rounded the other way
    made.sum().backward()
    assert ends[1].grad is not None
    assert torch.isfinite(ends[1].grad)


@pytest.mark.parametrize("ranges", ["clip", "learned"])
def test_16_bits_have_nothing_to_search(ranges: str) -> None:
    (problem,) = Quantize(weights="int8", activations="uint16", ranges=ranges).validate()
    assert "is for `activations = uint8`" in problem[1]


def test_outputs_with_outliers_are_computed_again(tmp_path: Path) -> None:
    """Channels inside the MLP break the 8 bits of what up_proj gives, which no range of an input reaches."""
    folder = outliers_script().make(ROOT / "examples" / "models" / "pycode-qwen2", tmp_path / "m", 0, 128.0, None, 4)
    ids = np.frombuffer(TEXT.read_bytes()[2000:2064], np.uint8).astype(np.int64)
    exact = DecoderOracle(load_hf("m", folder, 256)).forward(ids)
    off, rows = {}, {}
    for mode in ("input", "output", "both"):
        module, told = in_8_bits(folder), scope()
        Shadow(mode=mode).run(module, told)
        assert not violations(module)
        off[mode] = float(np.linalg.norm(DecoderOracle(module).forward(ids) - exact) / np.linalg.norm(exact))
        assert told.profile is not None
        rows[mode] = {row["name"]: row for row in json.loads(told.profile)["linears"]}
        assert Shadow(mode=mode).run(module, scope()) == 0
    assert off["both"] < 0.5 * off["input"], off
    assert off["both"] < off["output"], off
    assert len(rows["both"]["layers.0.mlp.up_proj"]["output"]["hot"]) >= 4
    assert rows["both"]["layers.0.mlp.gate_proj"]["output"]["hot"] == []
    assert all(row["hot"] == [] for row in rows["output"].values())
    found = parts_of(module)
    assert {part.device for part in found.parts} == {"cpu", "npu"}


def test_crossings_are_bounded(variant: Path) -> None:
    """Two crossings a layer are one input of each layer on average, whatever its number of linears."""
    module = in_8_bits(variant)
    told = scope()
    Shadow(crossings=2).run(module, told)
    kept = [row for row in told.tables[0].rows if row[-1] == "kept"]
    inputs = {node.inputs[0] for node in module.main.graph if SHADOW.get(node) == "cpu" and node.op_type == "Gather"}
    assert len(inputs) == 2 < len(kept)
