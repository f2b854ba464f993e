"""An exported decoder gives the bundle of its Hugging Face folder: the same integers, graphs and names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.oracle.rebuilt import prove_rebuilt
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.hf.read_decoder_arch import read_arch
from edgec.compiler.sources.onnx.decoder.rebuild import _as_config
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


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        ("llama", "eager"),
        ("qwen3", "sdpa"),
        ("phi3", "eager"),  # q, k, v and gate, up as one linear each
        ("smollm3", "sdpa"),  # a layer without rotary embedding
        ("mistral-window", "sdpa"),
        ("gemma3_text", "eager"),  # norms behind the branches, two rotary embeddings, one window
    ],
)
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


def test_a_window_is_read_out_of_the_mask(
    exported: Callable[..., Path], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    file = shutil.copy(exported("mistral-window"), tmp_path / "model.onnx")
    arch = OnnxSource().load("m", file, CONTEXT).arch
    assert arch is not None
    assert (arch.window, arch.local) == (6, (0, 1))
    within = OnnxSource().load("m", file, 6)
    assert within.arch is not None
    assert within.arch.window is None  # it leaves nothing out of so short a text
    prove_rebuilt(within)
    shutil.copy(folder_of("mistral-window") / "config.json", tmp_path)
    told = OnnxSource().load("m", file, CONTEXT).arch
    assert told is not None
    assert (told.family, told.window) == ("mistral", 6)


def test_a_mask_that_is_not_causal_is_found(
    exported: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    golden_error: Callable[..., None],
) -> None:
    monkeypatch.chdir(tmp_path)
    proto = onnx.load(exported("llama"))
    compared = [node for node in proto.graph.node if node.op_type == "LessOrEqual"]
    assert compared
    for node in compared:
        node.op_type = "GreaterOrEqual"
    onnx.save(proto, "model.onnx")
    with pytest.raises(PlanError) as raised:
        prove_rebuilt(OnnxSource().load("m", Path("model.onnx"), CONTEXT))
    golden_error("E0381", raised.value)


@pytest.mark.parametrize("perm", [(0, 2, 1, 3), (0, 1, 3, 2), (0, 2, 3, 1)])
def test_caches_may_have_their_axes_in_another_order(
    perm: tuple[int, ...], exported: Callable[..., Path], tmp_path: Path
) -> None:
    """[B,P,G,D] and [B,G,D,P] as inputs and outputs, turned where they enter and leave."""
    proto = onnx.load(exported("llama"))
    back = [perm.index(axis) for axis in range(4)]
    nodes = proto.graph.node
    for values, past in ((proto.graph.input, True), (proto.graph.output, False)):
        for value in [one for one in values if "key" in one.name or "value" in one.name]:
            inner, dims = f"{value.name}.inner", list(value.type.tensor_type.shape.dim)
            for node in nodes:
                node.input[:] = [inner if name == value.name else name for name in node.input]
                node.output[:] = [inner if name == value.name else name for name in node.output]
            ends = (value.name, inner) if past else (inner, value.name)
            turned = onnx.helper.make_node("Transpose", [ends[0]], [ends[1]], perm=back if past else perm)
            nodes.insert(0 if past else len(nodes), turned)
            del value.type.tensor_type.shape.dim[:]
            value.type.tensor_type.shape.dim.extend(dims[axis] for axis in perm)
    onnx.save(proto, tmp_path / "model.onnx")
    module = OnnxSource().load("m", tmp_path / "model.onnx", CONTEXT)
    assert module.arch is not None
    prove_rebuilt(module)


def test_without_positions_they_are_counted(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    module = OnnxSource().load("m", export(folder_of("llama"), tmp_path / "m.onnx", positions=False), CONTEXT)
    assert module.original is not None
    assert "position_ids" not in [value.name for value in module.original.graph.inputs]
    prove_rebuilt(module)


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


def test_a_chain_without_end_is_no_decoder(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {NO_DECODER}')
    (softmax,) = [node for node in proto.graph.node if node.op_type == "Softmax"]
    softmax.output[0] = "at_0"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(8, np.float32), "one"))
    names = [f"at_{n}" for n in range(2000)] + ["logits"]
    proto.graph.node.extend(onnx.helper.make_node("Add", [a, "one"], [b]) for a, b in pairwise(names))
    onnx.save(proto, tmp_path / "m.onnx")
    outline = OnnxSource().with_context(CONTEXT).outline(tmp_path / "m.onnx")
    assert outline.arch is None
    assert "make no decoder" in outline.warnings[0].message


def test_a_config_that_states_an_epsilon_of_32_bits(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """As configs are that come out of a GGUF: what ends a text is read there."""
    stated = json.loads((folder_of("llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**stated, "rms_norm_eps": float(np.float32(1e-5)), "eos_token_id": 2})
    )
    known = read_arch(tmp_path)
    found = replace(known, rms_eps=1e-5, bos=None, eos=())
    assert _as_config(found, tmp_path, 0.0) == known
    assert _as_config(replace(found, rms_eps=1e-6), tmp_path, 0.0).eos == ()
