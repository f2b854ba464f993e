"""Genie: its config for a bundle, our tokens on integers, and every trap of the contract named when planted."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from edgec.compiler.bundle.manifest import Manifest, load_manifest, write_manifest
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.ir.rope import RopeSpec
from edgec.compiler.runtime.generate import Runner
from edgec.compiler.verify.verify_bundle import deployments
from edgec.targets.qnn.genie import config as genie
from edgec.targets.qnn.genie.config import angles, stated_rope
from edgec.targets.qnn.genie.contract import Deployment, contract_problems
from edgec.targets.qnn.genie.deployment import deployment_problems
from edgec.targets.qnn.htp.chip import Chip
from edgec.targets.qnn.htp.context_binary import ContextInfo, read
from edgec.targets.qnn.twins import twin

from .conftest import MODELS
from .genie_traps import TRAPS

PLAN = """
plan genie
device snapdragon_8_gen_3
model target {{ source = hf("{models}/pycode-qwen2") context = 64 }}
calibration {{ text = "{models}/../text/calibration.txt" samples = 2 length = 32 }}
pipeline npu {{
  quantize (weights = int4, block = 32, activations = uint16) except "embed_tokens"
  bucket (tokens = [1, 8], context = [32, 64])
}}
deploy target on npu through npu as qnn {{ kv = uint8 }}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LPBQ weights, uint16 activations, a cache in 8 bits, two contexts of two buckets each."""
    folder = tmp_path_factory.mktemp("genie")
    plan = folder / "plan.edge"
    plan.write_text(PLAN.format(models=MODELS))
    return compile_plan(load_plan(plan), folder / "bundle").bundle


def test_genie_generates_our_tokens_on_integers_and_across_contexts(bundle):
    runner = Runner(bundle)
    ids = runner.tokenizer.encode("def read_config(path):\n")
    ours = runner.generate(ids, 28)["tokens"]  # 8 + 28 positions: from the graphs of 32 to those of 64
    runner.close()
    config = json.loads((bundle / "target" / "genie_config.json").read_text())
    part = load_manifest(bundle).part("target.npu0")
    details, graphs = part["details"], [graph["details"]["target_graph"] for graph in part["graphs"].values()]
    twins = [str(twin(details["twins"], graph, Chip(**details["chip"])).with_suffix(".bin")) for graph in graphs]
    config["dialog"]["engine"]["model"]["binary"]["ctx-bins"] = twins
    config["dialog"]["tokenizer"]["path"] = str(bundle / "tokenizer" / "tokenizer.json")
    assert genie.generate(config, ids, 28) == ours


@pytest.mark.parametrize(
    "rope",
    [
        RopeSpec(1e6),
        RopeSpec(10000.5, "linear", 4.0),
        RopeSpec(5e5, "llama3", 8.0, original_positions=8192, low_frequency_factor=1.0, high_frequency_factor=4.0),
    ],
)
def test_the_angles_that_a_config_states_are_those_of_the_model(rope):
    assert stated_rope(angles(rope, 64)).inverse_frequencies(64) == rope.inverse_frequencies(64)


def test_the_deployment_holds(bundle):
    assert deployment_problems(load_manifest(bundle), "target") == []


@pytest.fixture(scope="module")
def deployment(bundle) -> Deployment:
    manifest = load_manifest(bundle)
    binary = "target/target_ctx.bin"
    config = json.loads((bundle / "target" / "genie_config.json").read_text())
    tokenizer = manifest.tokenizer("target")
    chip = manifest.part("target.npu0")["details"]["chip"]
    arch = manifest.model("target")["arch"]
    assert tokenizer is not None
    return Deployment(
        config,
        "target",
        {name: entry["sha256"] for name, entry in manifest.files.items()},
        arch,
        tokenizer,
        chip,
        {binary: read(bundle / binary)},
    )


@pytest.mark.parametrize("name", TRAPS)
def test_a_planted_trap_is_named(deployment, name):
    plant, says = TRAPS[name]
    parts = {
        "config": copy.deepcopy(deployment.config), "arch": copy.deepcopy(deployment.arch),
        "tokenizer": dict(deployment.tokenizer), "binaries": dict(deployment.binaries),
    }  # fmt: skip
    plant(parts)
    found = contract_problems(replace(deployment, **parts))
    assert any(says in one for one in found), found


def test_no_trap_is_named_where_there_is_none(deployment):
    assert contract_problems(deployment) == []
    assert all(isinstance(info, ContextInfo) for info in deployment.binaries.values())


def test_verify_names_a_trap_in_a_sealed_bundle(bundle, tmp_path):
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    path = other / "target" / "genie_config.json"
    config = json.loads(path.read_text())
    config["dialog"]["engine"]["model"]["positional-encoding"]["rope-theta"] = 500000
    path.write_text(json.dumps(config))
    seal(other)
    (problem,) = deployments(load_manifest(other))
    assert problem.startswith("model `target`: for Genie, `rope-theta` is 500000, the model's is ")


def seal(bundle: Path) -> Manifest:
    data = json.loads((bundle / "manifest.json").read_text())
    return write_manifest(bundle, {key: data[key] for key in data.keys() - {"format", "version", "files"}})
