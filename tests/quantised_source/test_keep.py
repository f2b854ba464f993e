"""`quantize(method = keep)`: the integers of GPTQ, AWQ and compressed-tensors checkpoints ship bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import linears
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.hf.read_decoder_arch import read_arch
from edgec.passes.quantize import Quantize
from safetensors.numpy import save_file

from .make_quantised import Form, variants, write_quantised

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
FOLDER = MODELS / "pycode-qwen2"
KEEP = Quantize(method="keep")
KEPT = [form for form in variants() if not form.act_order][::3]  # every method, width and kind of zero point
IDS = list(range(5, 25))


@pytest.mark.parametrize("form", KEPT, ids=lambda form: form.label)
def test_the_module_holds_the_integers_of_the_checkpoint(tmp_path: Path, form: Form) -> None:
    expected = write_quantised(FOLDER, tmp_path, form)
    module, scope = load_hf("m", tmp_path, 64), Scope()
    before = DecoderOracle(module).forward(IDS)
    assert KEEP.run(module, scope) == 14
    assert [note.split(" of ")[0] for note in scope.notes] == ["`embed_tokens`, `lm_head`"]
    module.level = Level.COMPRESSED
    assert violations(module) == []
    for linear in linears(module):
        if linear.name in ("embed_tokens", "lm_head"):
            assert linear.quant is None
            continue
        quant = linear.quant
        assert quant is not None
        assert (quant.symmetric, quant.minimum) == (form.symmetric, None)
        assert quant.block == (form.group if (form.group or 512) < linear.shape[1] else None)
        np.testing.assert_array_equal(linear.weight().numpy(), expected[f"{linear.name}.weight"])
    np.testing.assert_allclose(DecoderOracle(module).forward(IDS), before, atol=1e-5 * np.abs(before).max())


def test_large_groups_are_cut_into_blocks_with_one_scale(tmp_path: Path) -> None:
    expected = write_quantised(FOLDER, tmp_path, Form("gptq", 4, 96, False, version="gptq"))
    module = load_hf("m", tmp_path, 64)
    KEEP.run(module, Scope(on=("*.down_proj",)))  # 384 inputs
    down = next(linear for linear in linears(module) if linear.quant is not None)
    assert down.quant is not None
    assert down.quant.block == 32
    np.testing.assert_array_equal(down.weight().numpy(), expected[f"{down.name}.weight"])


def test_every_linear_may_have_a_form_of_its_own(tmp_path: Path) -> None:
    """GPTQ's `dynamic`: another width for some linears, floats for others."""
    common, wide = Form("gptq", 4, 32, version="gptq"), Form("gptq", 8, 64, False, version="gptq")
    rules = {"+:.*down_proj": {"bits": 8, "group_size": 64, "sym": False}, r"-:model\.layers\.1\..*": {}}
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "dynamic": rules}

    def form_of(name: str) -> Form | None:
        if name == "lm_head" or ("layers.1" in name and "down_proj" not in name):
            return None
        return wide if "down_proj" in name else common

    expected = write_quantised(FOLDER, tmp_path, form_of, config)
    module = load_hf("m", tmp_path, 64)
    assert KEEP.run(module, Scope()) == 8
    formats = {linear.name: str(linear.quant.format) for linear in linears(module) if linear.quant}
    assert formats["layers.0.mlp.up_proj"] == "int4 block 32 symmetric"
    assert formats["layers.1.mlp.down_proj"] == "int8 block 64 asymmetric"
    for linear in linears(module):
        if linear.quant:
            np.testing.assert_array_equal(linear.weight().numpy(), expected[f"{linear.name}.weight"])


def test_keep_is_a_pass(tmp_path: Path) -> None:
    write_quantised(FOLDER, tmp_path, Form("awq", 4, 64, False, version="gemm"))
    assert run_and_check(KEEP, load_hf("m", tmp_path, 64)).changes == 14


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (Form("gptq", 4, 32, act_order=True, version="gptq"), "act-order"),
        (Form("gptq", 4, 24, version="gptq"), "no block of 16, 32, 64, 128 divides groups of 24 and 128 inputs"),
    ],
    ids=["act-order", "group"],
)
def test_groups_that_are_no_blocks(tmp_path: Path, golden_error: Any, form: Form, says: str) -> None:
    """Named by `keep`; the floats are right, and another method takes them."""
    expected = write_quantised(FOLDER, tmp_path, form)
    module = load_hf("m", tmp_path, 64)
    with pytest.raises(PlanError, match=says) as caught:
        KEEP.run(module, Scope())
    if form.act_order:
        golden_error("E0422", caught.value)
    scope = Scope(on=("*.mlp.*",))
    Quantize(weights="int8", block=32).run(module, scope)
    assert "are rounded once more, from the floats they stand for" in scope.notes[0]
    assert "keep" not in scope.notes[0]
    linear = next(linear for linear in linears(module) if linear.quant)
    value = expected[f"{linear.name}.weight"]
    np.testing.assert_allclose(linear.weight().numpy(), value, atol=np.abs(value).max() / 200)


def llama(folder: Path) -> Path:
    """A random Llama of two layers with an untied head and the tokenizer of an example."""
    folder.mkdir()
    config = json.loads((FOLDER / "config.json").read_text())
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((FOLDER / name).read_bytes())
    rng = np.random.default_rng(1)
    shapes = read_arch(folder).tensors().items()
    tensors = {name if name == "lm_head.weight" else f"model.{name}": _weight(shape, rng) for name, shape in shapes}
    save_file(tensors, folder / "model.safetensors")
    return folder


def _weight(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    made = np.ones(shape) if len(shape) == 1 else rng.normal(0, shape[-1] ** -0.5, shape)
    return made.astype(np.float16)


PLAN = """
device {device}
model m {{ source = hf("{folder}")  context = 64 }}
pipeline p {{ quantize (method = keep) {bucket} }}
deploy m on {place} through p as {target}
"""
BUNDLES = {
    "ort llama gptq": ("ort", Form("gptq", 4, 32, version="gptq"), 1e-4),
    "ort qwen2 awq": ("ort", Form("awq", 4, 64, False, version="gemm"), 1e-4),
    "ort qwen3 packed": ("ort", Form("compressed-tensors", 4, None, False), 1e-4),
    "mnn llama packed": ("mnn { memory = normal }", Form("compressed-tensors", 8, 32), 1e-4),
    "mnn qwen2 gptq": ("mnn { memory = normal }", Form("gptq", 3, 32, False, version="gptq_v2"), 1e-4),
    "qnn qwen3 awq": ("qnn", Form("awq", 4, 32, False, version="gemv"), 2e-2),
}  # relative to the largest logit; HTP computes in float16


def edgec(*words: object) -> str:
    """Standard output of a command that has to succeed."""
    command = [sys.executable, "-m", "edgec.compiler.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("case", BUNDLES)
def test_bundles_compute_what_the_integers_stand_for(tmp_path: Path, case: str) -> None:
    target, form, bound = BUNDLES[case]
    family = case.split()[1]
    source = llama(tmp_path / "float") if family == "llama" else MODELS / f"pycode-{family}"
    write_quantised(source, tmp_path / "m", form)
    npu = target == "qnn"
    more = {"device": "snapdragon_8_gen_3" if npu else "host", "place": "npu" if npu else "cpu"}
    bucket = "bucket (tokens = [8], context = [64])" if npu else ""
    (tmp_path / "p.edge").write_text(PLAN.format(folder=tmp_path / "m", target=target, bucket=bucket, **more))
    edgec("compile", tmp_path / "p.edge", "-o", tmp_path / "b", "--quiet")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    rows = {row["name"]: row for row in manifest["models"]["m"]["weights"]}
    kept = rows["layers.0.mlp.up_proj"]
    assert (kept["bits"], kept["block"], kept["symmetric"]) == (form.bits, form.group, form.symmetric)
    checked = json.loads(edgec("verify", tmp_path / "b", "--json"))
    assert checked["ok"], checked["problems"]
    (part,) = checked["parts"].values()
    assert part["relative_error"] < bound, part


def test_inspect_shows_what_is_stored(tmp_path: Path) -> None:
    write_quantised(FOLDER, tmp_path, Form("gptq", 4, 32, act_order=True, version="gptq"))
    assert json.loads(edgec("inspect", tmp_path, "--json"))["integers"] == {"gptq int4 group 32 in act-order": 14}
