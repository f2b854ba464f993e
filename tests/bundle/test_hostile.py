"""A bundle is input: manifest, engine configs and templates changed and sealed again (`hostile_bundles.py`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.runtime.generate import run_bundle

from .hostile_bundles import JINJA, VALUES, manifest_cases, put, seal, verdict

MODEL = Path(__file__).resolve().parents[2] / "examples" / "models" / "pycode-qwen2"
EVERY = 23  # of the cases that the script runs all of


@pytest.fixture(scope="module", params=["ort", "mnn"])
def bundle(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    plan = folder / "plan.edge"
    plan.write_text(
        f'plan p\ndevice host\nmodel m {{ source = hf("{MODEL}") context = 64 }}\ndeploy m on cpu as {request.param}\n'
    )
    return compile_plan(load_plan(plan), folder / "bundle").bundle


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "b"))


def test_values_of_the_manifest(copy):
    """Each is refused with a code, or of no consequence: no exception of Python's, no hour of work."""
    original = (copy / "manifest.json").read_bytes()
    cases = list(manifest_cases(json.loads(original)))[:: EVERY * 2]
    refused = [error for name, change in cases if (error := load_error(copy, original, change)) is not None]
    assert len(refused) > len(cases) // 3
    assert {error.diagnostics[0].code[:3] for error in refused} == {"E09"}
    assert max(len(error.diagnostics[0].message) for error in refused) < 3000


def load_error(copy: Path, original: bytes, change) -> EdgecError | None:
    (copy / "manifest.json").write_bytes(original)
    seal(copy, change, files=False)
    try:
        load_manifest(copy)
    except EdgecError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("models", "m", "arch", "vocab"), 7),
        (("models", "m", "arch", "kv_heads"), 3),
        (("models", "m", "engine"), "other"),
        (("parts", "m.cpu0", "file"), "../x"),
    ],
)
def test_values_that_contradict_the_rest(copy, path, value):
    seal(copy, lambda data: put(data, path, value), files=False)
    with pytest.raises(EdgecError) as raised:
        run_bundle(copy, "def", 1)
    assert raised.value.diagnostics[0].code in ("E0902", "E0915", "E0916")


@pytest.mark.parametrize("name", ["loops", "join", "recursion", "range", "class", "zero"])
def test_templates_end(copy, name, monkeypatch):
    monkeypatch.setattr("edgec.compiler.runtime.text_process._SECONDS", 3.0)
    folder = next(copy.glob("*/tokenizer.json")).parent
    (folder / "chat_template.jinja").write_text(JINJA[name])
    seal(copy)
    with pytest.raises(EdgecError) as raised:
        run_bundle(copy, "def", 1, chat=True)
    assert raised.value.diagnostics[0].code in ("E0921", "E0990", "E0991")


def test_a_tokenizer_that_aborts_its_process(copy):
    path = next(copy.glob("*/tokenizer.json"))
    data = json.loads(path.read_text(encoding="utf-8"))
    data["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 1000}] * 6,
    }
    path.write_text(json.dumps(data))
    seal(copy)
    with pytest.raises(EdgecError) as raised:
        run_bundle(copy, "def", 1)
    assert raised.value.diagnostics[0].code in ("E0990", "E0991", "E0992")


def test_engine_configs_are_those_edgec_writes(copy, tmp_path, golden_error):
    """MNN would write to `tmp_path` and read weights that the manifest does not list."""
    config = copy / "m" / "config.json"
    if not config.is_file():
        pytest.skip("a bundle of MNN's")
    original, victim = config.read_text(encoding="utf-8"), tmp_path / "victim"
    victim.mkdir()
    for change in (
        {"use_mmap": True, "tmp_path": f"{victim}/"},
        {"llm_weight": "../../elsewhere/llm.mnn.weight"},
        {"base_dir": "/"},
        {"backend_type": "opencl"},
        {"thread_num": "many"},
    ):
        config.write_text(json.dumps(json.loads(original) | change))
        seal(copy)
        with pytest.raises(EdgecError) as raised:
            run_bundle(copy, "def", 1)
        assert raised.value.diagnostics[0].code == "E0713"
        if "base_dir" in change:
            golden_error("E0713", raised.value)
    assert list(victim.iterdir()) == []


def test_a_graph_without_end_is_ended(copy, monkeypatch):
    """An ONNX loop that never stops runs in a process that is given up, not in edgec's own."""
    import onnx
    from onnx import TensorProto, helper

    path = copy / "m" / "cpu0.onnx"
    if not path.is_file():
        pytest.skip("a bundle of ONNX Runtime's")
    monkeypatch.setattr("edgec.compiler.emit.graph_in_child._SECONDS", 3.0)
    monkeypatch.setattr("edgec.compiler.emit.graph_in_child._SLOWEST", 1e12)
    model = onnx.load(path, load_external_data=False)
    forever = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]),
        ],
    )
    model.graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [True]))
    model.graph.initializer.append(helper.make_tensor("seed", TensorProto.FLOAT, [1], [0.0]))
    model.graph.node.append(helper.make_node("Loop", ["", "always", "seed"], ["end"], body=forever))
    logits = next(one for one in model.graph.output if one.name == "logits")
    for node in model.graph.node:
        node.output[:] = ["logits_before" if name == "logits" else name for name in node.output]
        node.input[:] = ["logits_before" if name == "logits" else name for name in node.input]
    model.graph.node.append(helper.make_node("Add", ["logits_before", "end"], [logits.name]))
    onnx.save(model, path)
    seal(copy)
    with pytest.raises(EdgecError) as raised:
        run_bundle(copy, "def", 1)
    assert raised.value.diagnostics[0].code == "E0991"


def test_links_are_refused(copy):
    file = next(path for path in sorted((copy / "m").iterdir()) if path.stat().st_size > 1000)
    moved = copy.parent / "elsewhere"
    os.rename(file, moved)
    file.symlink_to(moved)
    with pytest.raises(EdgecError, match="symbolic link"):
        run_bundle(copy, "def", 1)


def test_the_verdict_sees_what_it_should():
    def done(code: int, said: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, "", said)

    assert verdict(None) is not None
    assert verdict(done(-6, "")) is not None
    assert verdict(done(1, "Traceback (most recent call last):")) is not None
    assert verdict(done(4, "error[E0993]: edgec itself failed")) is not None
    assert verdict(done(1, "nothing")) is not None
    assert verdict(done(1, "error[E0902]: no")) is None
    assert VALUES["gone"] is ...
