"""Genie with a model in two binaries: our tokens, and what keeps shards from being a chain by their names."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.diagnostics.diagnostic import EngineError
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.runtime.generate import Runner
from edgec.compiler.runtime.on_device import for_device
from edgec.targets.qnn.genie import config as genie
from edgec.targets.qnn.genie.contract import Deployment, contract_problems
from edgec.targets.qnn.genie.deployment import deployment_problems
from edgec.targets.qnn.genie.graph_order import numbered, rename_graphs
from edgec.targets.qnn.htp.chip import Chip
from edgec.targets.qnn.htp.context_binary import ContextInfo, read
from edgec.targets.qnn.twins import twin

from .conftest import MODELS

PLAN = """
plan shards
device {device}
model target {{ source = hf("{models}/pycode-qwen2") context = 64 }}
calibration {{ text = "{text}" samples = 4 length = 64 }}
pipeline npu {{
  quantize ({quantize}) except {kept}
  bucket (tokens = {tokens}, context = {context})
}}
deploy target on npu through npu as qnn {{ shard = 2 {options} accept = W0601 reason = "for the emulator" }}
"""
FLOATS = {
    "device": "snapdragon_8_gen_3", "quantize": "weights = int4, block = 32", "options": "",
    "kept": '["lm_head", "embed_tokens"]', "tokens": "[1, 8]", "context": "[64]",
}  # fmt: skip
INTEGERS = {
    "quantize": "weights = int4, block = 32, activations = uint16",
    "kept": '"embed_tokens"',
    "options": "kv = uint8",
}
CHIPS = {"device": "[snapdragon_8_gen_2, snapdragon_8_gen_3]"}
FORMS = {
    "LPBQ with an 8-bit cache, two contexts": INTEGERS | {"context": "[32, 64]"},
    "a container for two chips": CHIPS | {"tokens": "[1]", "options": "container = multi_soc"},
    "integers in a container": CHIPS | INTEGERS | {"tokens": "[1]", "options": "container = multi_soc kv = uint8"},
}


def compiled(folder: Path, **words: str) -> Path:
    plan, text = folder / "plan.edge", MODELS.parent / "text" / "calibration.txt"
    plan.write_text(PLAN.format(models=MODELS, text=text, **(FLOATS | words)))
    return compile_plan(load_plan(plan), folder / "bundle").bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("shards"))


def test_genie_generates_our_tokens_through_two_binaries(bundle, tmp_path):
    generates_our_tokens(bundle, tmp_path)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_it_does_so_in_every_form(form, tmp_path):
    """A container cannot be loaded here: its twins are, with the names that its graphs have in it for each chip."""
    made = compiled(tmp_path, **form)
    manifest = load_manifest(made)
    for device in manifest.data["devices"]:
        assert deployment_problems(for_device(manifest, device["name"]), "target") == []
    if "multi_soc" in form.get("options", ""):
        for file in sorted((made / "target").glob("*.bin")):
            eight, ten = (read(file, soc_model=one) for one in (43, 57))
            assert set(eight.graphs) == set(ten.graphs)
            assert {name.split("_")[2][:3] for name in eight.graphs} == {f"00{int(file.stem[-1]) + 1}"}
    generates_our_tokens(made, tmp_path)


def generates_our_tokens(bundle: Path, tmp_path: Path) -> None:
    runner = Runner(bundle, device="snapdragon_8_gen_3")
    ids = runner.tokenizer.encode("def read_config(path):\n")
    ours = runner.generate(ids, 8)["tokens"]
    runner.close()
    twins = []
    for part in for_device(load_manifest(bundle), "snapdragon_8_gen_3").parts.values():
        for graph in part["graphs"].values():
            name = graph["details"]["target_graph"]
            made = twin(part["details"]["twins"], name, Chip(**part["details"]["chip"])).with_suffix(".bin")
            own = Path(shutil.copy(made, tmp_path))
            rename_graphs(own, dict.fromkeys(read(own).graphs, graph["graph"]))  # as in the shared binary
            twins.append(str(own))
    config = json.loads((bundle / "target" / "genie_config.json").read_text())
    assert config["dialog"]["engine"]["model"]["binary"]["ctx-bins"] == ["target_ctx0.bin", "target_ctx1.bin"]
    config["dialog"]["engine"]["model"]["binary"]["ctx-bins"] = twins
    config["dialog"]["tokenizer"]["path"] = str(bundle / "tokenizer" / "tokenizer.json")
    assert genie.generate(config, ids, 8) == ours


def test_names_sort_as_the_shards_run_in_binary_model_and_manifest(bundle):
    import onnx

    manifest = load_manifest(bundle)
    assert deployment_problems(manifest, "target") == []
    first, second = manifest.parts.values()
    for bucket, graph in first["graphs"].items():
        assert graph["graph"] < second["graphs"][bucket]["graph"]
    for part in (first, second):
        assert set(read(bundle / part["file"]).graphs) == {graph["graph"] for graph in part["graphs"].values()}
        for graph in part["graphs"].values():
            (node,) = onnx.load(bundle / graph["file"]).graph.node
            stated = {one.name: one.s.decode() for one in node.attribute if one.name == "partition_name"}
            assert stated == {"partition_name": graph["graph"]}


@pytest.fixture(scope="module")
def deployment(bundle) -> Deployment:
    manifest = load_manifest(bundle)
    parts = list(manifest.parts.values())
    config = json.loads((bundle / "target" / "genie_config.json").read_text())
    tokenizer = manifest.tokenizer("target")
    assert tokenizer is not None
    files, arch, chip = (
        {name: entry["sha256"] for name, entry in manifest.files.items()},
        manifest.model("target")["arch"],
        parts[0]["details"]["chip"],
    )
    binaries = {part["file"]: read(bundle / part["file"]) for part in parts}
    return Deployment(config, "target", files, arch, tokenizer, chip, binaries)


def swapped(infos: list[ContextInfo]) -> list[ContextInfo]:
    """The first shard's names behind the second's."""
    return [
        replace(one, graphs={numbered(name, 2 - at): graph for name, graph in one.graphs.items()})
        for at, one in enumerate(infos)
    ]


def without(which: int, tensor: str):
    def plant(infos: list[ContextInfo]) -> list[ContextInfo]:
        made = list(infos)
        graphs = {
            name: replace(
                graph,
                inputs=tuple(one for one in graph.inputs if one.name != tensor),
                outputs=tuple(one for one in graph.outputs if one.name != tensor),
            )
            for name, graph in made[which].graphs.items()
        }
        made[which] = replace(made[which], graphs=graphs)
        return made

    return plant


def other_type(infos: list[ContextInfo]) -> list[ContextInfo]:
    """What goes from shard to shard is read as another type."""
    graphs = {
        name: replace(g, inputs=tuple(replace(i, dtype="float32") if "mlp" in i.name else i for i in g.inputs))
        for name, g in infos[1].graphs.items()
    }
    return [infos[0], replace(infos[1], graphs=graphs)]


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (swapped, "which no graph makes whose name sorts before it"),
        (swapped, "the first by its name, has no input `input_ids`"),
        (without(1, "logits"), "the last by its name, has no output `logits`"),
        (without(0, "past_key_0_in"), "the cache has no `past_key_0_in`"),
        (without(1, "past_value_1_out"), "the cache has no `past_value_1_out`"),
        (other_type, "reads `layers.0.mlp_residual` as float32, it is float16"),
        (without(0, "input_ids"), "has no input `input_ids`"),
    ],
)
def test_a_planted_trap_is_named(deployment, plant, says):
    infos = plant(list(deployment.binaries.values()))
    found = contract_problems(replace(deployment, binaries=dict(zip(deployment.binaries, infos, strict=True))))
    assert any(says in one for one in found), found


def test_no_trap_is_named_where_there_is_none(deployment):
    assert contract_problems(deployment) == []


def test_a_name_without_a_number():
    with pytest.raises(EngineError, match="a number was expected"):
        numbered("graph_1", 1)


def test_the_folder_is_laid_out_as_geniex_reads_it(bundle):
    """Its importer takes a flat folder with metadata.json and binaries; `ctx-bins` names them in order."""
    folder = bundle / "target"
    config = json.loads((folder / "genie_config.json").read_text())["dialog"]
    for name in (
        *config["engine"]["model"]["binary"]["ctx-bins"],
        config["tokenizer"]["path"],
        "tokenizer_config.json",
    ):
        assert (folder / name).is_file()
        assert "/" not in name
    assert (folder / "tokenizer.json").read_bytes() == (bundle / "tokenizer" / "tokenizer.json").read_bytes()
    metadata = json.loads((folder / "metadata.json").read_text())
    assert (metadata["model_id"], metadata["genie"]) == ("target", {"supports_vision": False})


def test_another_tokenizer_beside_the_config_is_named(deployment):
    other = replace(deployment, files={**deployment.files, "target/tokenizer.json": "0" * 64})
    assert contract_problems(other) == [
        "its tokenizer is `target/tokenizer.json`, the model's is `tokenizer/tokenizer.json`"
    ]
