"""One bundle for two chips, its layers in two binaries each: what is stored once, chosen, refused, and made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.driver import CompileOptions, compile_plan, load_plan
from edgec.compiler.files import cache
from edgec.compiler.plan.devices import resolve_device
from edgec.compiler.runtime.generate import run_bundle
from edgec.compiler.runtime.on_device import for_device
from edgec.compiler.verify.verify_bundle import other_chips, verify_bundle
from edgec.targets.qnn.binaries import CONTEXT_KIND
from edgec.targets.qnn.htp.context_binary import read

from .conftest import MODELS

PLAN = """
plan chips
device {device}
model target {{ source = hf("{models}/pycode-qwen2") context = 64 }}
pipeline npu {{
  quantize (weights = int4, block = 32)
  place (device = cpu) on "embed_tokens"
  bucket (tokens = {tokens}, context = [64])
}}
deploy target on npu through npu as qnn {{ {options} accept = [W0601] reason = "a test" }}
"""
BOTH = '[sm8550, "Snapdragon 8 Gen 3"]'


def compile_text(folder: Path, device: str = BOTH, tokens: str = "[1, 4]", options: str = "", jobs: int = 2) -> Path:
    plan = folder / "plan.edge"
    plan.write_text(PLAN.format(device=device, tokens=tokens, options=options, models=MODELS))
    return compile_plan(load_plan(plan), folder / "bundle", CompileOptions(jobs=jobs)).bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_text(tmp_path_factory.mktemp("chips"), options="shard = 2")


def test_each_chip_has_binaries_of_its_own_and_the_rest_is_there_once(bundle):
    made = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*.bin")}
    chips = ("snapdragon_8_gen_2", "snapdragon_8_gen_3")
    assert made == {f"target/{chip}/target_ctx{shard}.bin" for chip in chips for shard in (0, 1)}
    assert [path.relative_to(bundle).as_posix() for path in bundle.rglob("*.data")] == ["target/ort.data"]
    for chip, soc in zip(chips, (43, 57), strict=True):
        parts = for_device(load_manifest(bundle), chip).parts
        assert [read(bundle / parts[name]["file"]).soc_model for name in ("target.npu1", "target.npu2")] == [soc, soc]
    memory = json.loads((bundle / "manifest.json").read_text())["memory"]["target"]["weights"]
    whole = sum(path.stat().st_size for path in (bundle / "target").rglob("*") if path.is_file())
    second = sum(
        path.stat().st_size for path in (bundle / "target" / chips[1]).glob("target_ctx?.*") if ".g" not in path.name
    )
    assert memory == whole - second


def test_the_shards_compute_what_one_binary_does(bundle, tmp_path):
    whole = compile_text(tmp_path, "sm8650")
    prompt = "def read(path):\n"
    said = [run_bundle(one, prompt, 8, device="SM8650-AC")["tokens"] for one in (bundle, whole)]
    assert said[0] == said[1]


def test_every_chips_binary_is_verified(bundle, tmp_path):
    assert verify_bundle(bundle)["problems"] == []
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    manifest = json.loads((other / "manifest.json").read_text())
    chips = manifest["parts"]["target.npu1"]["chips"]
    chips["snapdragon_8_gen_3"]["file"] = chips["snapdragon_8_gen_2"]["file"]  # the binary of another chip
    reseal(other, manifest)
    problem = other_chips(load_manifest(other), None)[0]
    assert "target.npu1` on snapdragon_8_gen_3" in problem
    assert "is for SoC 43, the manifest says 57" in problem


def reseal(bundle: Path, manifest: dict) -> None:
    import hashlib

    raw = (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()
    (bundle / "manifest.json").write_bytes(raw)
    (bundle / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n")


@pytest.mark.parametrize("act", [lambda b, d: run_bundle(b, "x", 1, device=d), lambda b, d: verify_bundle(b, device=d)])
def test_another_chip_is_refused_by_name(bundle, golden_error, act):
    with pytest.raises(PlanError) as raised:
        act(bundle, "Snapdragon 8 Elite")
    (found,) = raised.value.diagnostics
    golden_error("E0924", [type(found)(found.code, found.message.replace(str(bundle), "bundle"), help=found.help)])


def test_binaries_of_an_interrupted_compile_are_not_made_again(bundle, tmp_path):
    kept = list((cache.cache_root() / CONTEXT_KIND).glob("*/*/*_t4_c64.onnx"))  # others are of other tests
    assert len(kept) == 4
    said: list[str] = []
    plan = load_plan(bundle.parent / "plan.edge")
    shutil.rmtree(kept[0].parent)  # as if it had been cut off before this one
    again = compile_plan(plan, tmp_path / "again", CompileOptions(progress=lambda text: said.append(str(text)))).bundle
    assert sorted("from the cache" in line for line in said if "MB for v" in line) == [False, True, True, True]
    for path in bundle.rglob("*.bin"):  # whether a compile gives the same bytes is asked elsewhere
        assert (again / path.relative_to(bundle)).stat().st_size == path.stat().st_size


def test_the_container_for_several_chips_holds_each(tmp_path):
    bundle = compile_text(tmp_path, tokens="[1]", options="container = multi_soc")
    (binary,) = bundle.rglob("*.bin")
    assert [read(binary, soc_model=soc).soc_model for soc in (43, 57)] == [43, 57]
    assert read(binary).socs == (43, 57)
    assert other_chips(load_manifest(bundle), "sm8550") == other_chips(load_manifest(bundle), "sm8650") == []
    damaged = tmp_path / "damaged.bin"
    damaged.write_bytes(binary.read_bytes().replace(b"htp.cache.sm8650", b"htp.other.sm8650"))
    with pytest.raises(Exception, match="holds no graph for SoC 57, only for 43"):
        read(damaged, soc_model=57)


REFUSED = [
    ("E0644", BOTH, "container = multi_soc", "holds one graph, and `target` has 2 buckets"),
    ("E0644", "sm8650", "container = multi_soc", "the plan names one"),
    ("E0645", "sm8650", "shard = 3", "`target` has 2 layers"),
    ("E0604", '[sm8650, "8s Gen 3"]', "", "the NPU of `snapdragon_8s_gen_3` does not compute in fp16"),
    ("E0218", "[sm8650, snapdragon_8_gen_3]", "", "named twice"),
]


@pytest.mark.parametrize(("code", "device", "options", "why"), REFUSED)
def test_what_cannot_be_is_refused_by_check(tmp_path, code, device, options, why):
    from edgec.compiler.driver import check_plan

    plan = tmp_path / "plan.edge"
    plan.write_text(PLAN.format(device=device, tokens="[1, 4]", options=options, models=MODELS))
    found = [one for one in check_plan(plan)[1] if one.severity == "error"]
    assert [one.code for one in found] == [code]
    assert why in found[0].message


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("sm8650", "snapdragon_8_gen_3"), ("SM8650-AC", "snapdragon_8_gen_3"), ("SM8550P", "snapdragon_8_gen_2"),
        ("Snapdragon 8 Elite Gen 5", "snapdragon_8_elite_gen_5"), ("8 Gen 3", "snapdragon_8_gen_3"),
        ("Qualcomm Snapdragon 8+ Gen 1 Mobile Platform", "snapdragon_8_plus_gen_1"),
        ("snapdragon_8_gen_4", "snapdragon_8_elite"), ("SM86500", None), ("8 Gen 9", None), ("", None),
    ],
)  # fmt: skip
def test_names_of_a_chip(written, name):
    found = resolve_device(written)
    assert (found and found.name) == name
