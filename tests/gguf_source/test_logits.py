"""A GGUF read back: logits against transformers for each family, rows of every ggml type against the package `gguf`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.sources.gguf.ggml_types import TYPES
from edgec.compiler.sources.gguf.gguf_file import read_gguf
from edgec.compiler.sources.gguf.gguf_tensors import dequantised, raw_rows
from edgec.compiler.sources.gguf.load_gguf import load_gguf
from edgec.compiler.sources.gguf.read_gguf_arch import ROPE_FACTORS, read_gguf_arch
from edgec.compiler.sources.hf.load_hf import load_hf

from .make_gguf import Type, write_gguf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 5000.0,
}
PLAIN = {"rope_type": "default", "rope_theta": 500.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama grouped heads": ("Llama", {"num_key_value_heads": 2}),
    "llama tied biases": ("Llama", {"num_key_value_heads": 4, "tie_word_embeddings": True, "attention_bias": True}),
    "qwen2 tied": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3 wide heads": ("Qwen3", {"num_key_value_heads": 1, "head_dim": 24}),
}


def save_random(folder: Path, kind: str, **more: Any) -> Any:
    """A random model of two layers in `folder`, and the same in torch."""
    size = {"vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "head_dim": 16, "max_position_embeddings": 128}
    rest = {"rope_parameters": dict(PLAIN), "eos_token_id": 2, "bos_token_id": 1, "rms_norm_eps": 1e-5}
    config = getattr(transformers, f"{kind}Config")(**{**size, **heads, **rest, "tie_word_embeddings": False, **more})
    torch.manual_seed(len(kind) + config.num_key_value_heads)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    return model


def logits(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


IDS = np.random.default_rng(3).integers(0, 131, 40).tolist()


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(tmp_path, name):
    kind, more = CASES[name]
    model = save_random(tmp_path, kind, **more)
    module = load_gguf("m", write_gguf(tmp_path, tmp_path / "m.gguf"), 64)
    assert violations(module) == []
    expected, made = logits(model, IDS), DecoderOracle(module).forward(IDS)
    np.testing.assert_allclose(made, expected, atol=1e-4 * np.abs(expected).max())


def test_rope_factors_are_those_of_the_scaling_they_come_from(tmp_path):
    model = save_random(tmp_path, "Llama", num_key_value_heads=2, rope_parameters=LLAMA3)
    arch = load_hf("m", tmp_path, 64).arch
    assert arch is not None
    plain = [arch.rope.theta ** (-i / 8) for i in range(8)]
    factors = np.array(plain) / np.array(arch.inverse_frequencies())
    assert factors.max() == pytest.approx(8)
    path = write_gguf(tmp_path, tmp_path / "m.gguf", tensors={ROPE_FACTORS: factors.astype(np.float32)})
    expected, made = logits(model, IDS), DecoderOracle(load_gguf("m", path, 64)).forward(IDS)
    np.testing.assert_allclose(made, expected, atol=1e-4 * np.abs(expected).max())


def test_yarn(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 900.0}
    model = save_random(tmp_path, "Qwen2", num_key_value_heads=2, rope_parameters=yarn)
    scaling = {"type": "yarn", "factor": 4.0, "original_context_length": 32}
    metadata = {f"qwen2.rope.scaling.{key}": value for key, value in scaling.items()}
    module = load_gguf("m", write_gguf(tmp_path, tmp_path / "m.gguf", metadata=metadata), 64)
    expected, made = logits(model, IDS), DecoderOracle(module).forward(IDS)
    np.testing.assert_allclose(made, expected, atol=1e-4 * np.abs(expected).max())


LINEAR = {
    "by type": ({"scaling.type": "linear", "scaling.factor": 4.0}, 4.0),
    "no type": ({"scaling.factor": 4.0}, 4.0),
    "old key": ({"scale_linear": 4.0}, 4.0),
    "old key that says nothing": ({"scale_linear": 0.0}, 1.0),
    "switched off": ({"scaling.type": "none", "scaling.factor": 4.0}, 1.0),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_scaling(tmp_path, name):
    """As llama.cpp reads it: a factor without a type scales linearly, `none` switches it off."""
    said, factor = LINEAR[name]
    linear = {"rope_type": "linear", "factor": factor, "rope_theta": 900.0}
    model = save_random(tmp_path, "Qwen2", num_key_value_heads=2, rope_parameters=linear)
    metadata = {f"qwen2.rope.{key}": value for key, value in said.items()}
    module = load_gguf("m", write_gguf(tmp_path, tmp_path / "m.gguf", metadata=metadata), 64)
    expected, made = logits(model, IDS), DecoderOracle(module).forward(IDS)
    np.testing.assert_allclose(made, expected, atol=1e-4 * np.abs(expected).max())


def test_the_table_of_types_is_that_of_the_package():
    sizes = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in Type}
    assert {index: (kind.name, kind.block, kind.size) for index, kind in TYPES.items()} == sizes
    read = {Type.F32, Type.F16, *gguf.quants._type_traits}
    assert {kind.name for kind in TYPES.values() if kind.read} == {kind.name for kind in read}


@pytest.mark.parametrize("kind", [kind for kind in TYPES.values() if kind.read], ids=lambda kind: kind.name)
@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random scales overflow
def test_rows_of_every_type(tmp_path, family, kind):
    """Row ranges that cut through heads; random blocks, so that no type has to be written by the package."""
    save_random(tmp_path, family, num_key_value_heads=2, hidden_size=256)
    path = write_gguf(tmp_path, tmp_path / "m.gguf")
    file = read_gguf(path)
    arch, stored = read_gguf_arch(file), file.tensors["blk.0.attn_q.weight"]
    raw = np.random.default_rng(0).integers(0, 256, (64, kind.row_bytes(256)), np.uint8)
    if kind.block == 1:
        raw = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
        raw = gguf.quants.quantize(raw, Type[kind.name]).view(np.uint8)
    (tmp_path / "blocks").write_bytes(b"skip" + raw.tobytes())
    moved = type(stored)(stored.name, type(stored.file)(tmp_path / "blocks"), 4, kind, stored.shape)
    whole = gguf.quants.dequantize(raw, Type[kind.name])
    if family == "Llama":
        whole = whole.reshape(4, 8, 2, 256).swapaxes(1, 2).reshape(64, 256)
    for start, stop in ((0, 64), (5, 6), (13, 50), (63, 64)):
        rows = dequantised(moved, raw_rows("layers.0.self_attn.q_proj.weight", moved, arch, start, stop))
        np.testing.assert_array_equal(rows, whole[start:stop])  # NaN where the random scale is
