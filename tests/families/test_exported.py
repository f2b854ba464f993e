"""An exported decoder gives the bundle of its Hugging Face folder: the same integers, graphs and names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.oracle.rebuilt import prove_rebuilt
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.onnx.onnx_source import OnnxSource

from .exported import export

CONTEXT = 64
PLAN = """\
device snapdragon_8_gen_3
model m {{ source = {source}  context = 64 }}
pipeline p {{ quantize (weights = int4, block = 32)  bucket (tokens = [1, 8], context = [64]) }}
deploy m on cpu through p as ort
"""
NO_DECODER = """g (int64[1,s] ids, float[1,2,p,4] k, float[1,2,p,4] v, float[16,8] table) =>
    (float[1,s,8] logits, float[1,2,t,4] pk, float[1,2,t,4] pv) {
    x = Gather(table, ids)
    logits = Softmax(x)
    pk = Concat<axis = 2>(k, k)
    pv = Concat<axis = 2>(v, v)
}"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, folder_of: Callable[[str], Path]) -> Callable[..., Path]:
    """exported(kind, attention): an ONNX file of the family's random decoder, alone in its folder."""
    made: dict[str, Path] = {}

    def file(kind: str, attention: str = "eager") -> Path:
        if kind not in made:
            made[kind] = export(folder_of(kind), tmp_path_factory.mktemp(kind) / "model.onnx", attention)
        return made[kind]

    return file


@pytest.mark.parametrize(("kind", "attention"), [("llama", "eager"), ("qwen3", "sdpa")])
def test_the_graph_is_that_of_the_folder(
    kind: str, attention: str, exported: Callable[..., Path], folder_of: Callable[[str], Path]
) -> None:
    theirs, ours = load_hf("m", folder_of(kind), CONTEXT), OnnxSource().load("m", exported(kind, attention), CONTEXT)
    prove_rebuilt(ours)
    assert ours.original is None
    assert [node.name for node in ours.nodes()] == [node.name for node in theirs.nodes()]
    for name, value in theirs.main.graph.initializers.items():
        held = ours.main.graph.initializers[name].const_value
        assert value.const_value is not None
        assert held is not None
        assert np.array_equal(held.numpy(), value.const_value.numpy()), name


def test_half_floats_are_a_decoder_too(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folder_of("qwen2")
    module = OnnxSource().load("m", export(folder, tmp_path / "m.onnx", "sdpa", half=True), CONTEXT)
    prove_rebuilt(module)
    assert module.arch is not None
    assert module.arch.attention_scale is None
    stored = load_hf("m", folder, CONTEXT).main.graph.initializers["layers.0.mlp.up_proj.weight"].const_value
    held = module.main.graph.initializers["layers.0.mlp.up_proj.weight"].const_value
    assert stored is not None
    assert held is not None
    assert np.array_equal(held.numpy(), stored.numpy())


def test_the_bundle_is_that_of_the_folder(
    exported: Callable[..., Path], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = folder_of("llama")
    for file in (*folder.glob("*.json"), exported("llama")):
        shutil.copy(file, tmp_path / file.name)
    manifests = []
    for name, source in (("onnx", 'onnx("model.onnx")'), ("hf", f'hf("{folder}")')):
        (tmp_path / f"{name}.edge").write_text(PLAN.format(source=source))
        assert main(["compile", str(tmp_path / f"{name}.edge"), "-o", str(tmp_path / name), "--quiet"]) == 0
        manifests.append(json.loads((tmp_path / name / "manifest.json").read_text()))
    ours, theirs = manifests
    made = [{k: v for k, v in one["files"].items() if not k.startswith(("device/", "report"))} for one in manifests]
    assert made[0] == made[1]
    assert len(made[0]) > 3
    assert ours["models"]["m"]["arch"] == theirs["models"]["m"]["arch"]
    assert ours["parts"] == theirs["parts"]


def test_a_window_that_no_config_tells_is_found(
    exported: Callable[..., Path],
    folder_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    golden_error: Callable[..., None],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = shutil.copy(exported("mistral-window"), Path("model.onnx"))
    with pytest.raises(PlanError) as raised:
        prove_rebuilt(OnnxSource().load("m", file, CONTEXT))
    golden_error("E0381", raised.value)
    shutil.copy(folder_of("mistral-window") / "config.json", tmp_path)
    told = OnnxSource().load("m", file, CONTEXT)
    assert told.arch is not None
    assert told.arch.window == 6
    prove_rebuilt(told)


def test_what_computes_something_else_is_found(exported: Callable[..., Path]) -> None:
    module = OnnxSource().load("m", exported("llama"), CONTEXT - 1)
    gain = module.main.graph.initializers["norm.weight"].const_value
    rows = gain._rows  # type: ignore[union-attr]
    gain._rows = lambda a, b: rows(a, b) * np.float32(1.01)  # type: ignore[union-attr]
    with pytest.raises(PlanError, match=r"its logits are 0\.0"):
        prove_rebuilt(module)


def test_without_a_context_it_stays_as_it_was_exported(exported: Callable[..., Path]) -> None:
    module = OnnxSource().load("m", exported("llama"), 0)
    assert module.arch is None
    assert "past_key_values.0.key" in [value.name for value in module.main.graph.inputs]


def test_what_is_no_decoder_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden_error: Callable[..., None]
) -> None:
    monkeypatch.chdir(tmp_path)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {NO_DECODER}')
    onnx.save(proto, "m.onnx")
    outline = OnnxSource().with_context(CONTEXT).outline(Path("m.onnx"))
    assert outline.arch is None
    golden_error("W0371", PlanError(*outline.warnings))
