"""Logits of the semantic graph against transformers: every family, odd shapes, each rope kind, stored types, shards."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.hf.read_decoder_arch import read_arch

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LINEAR = {"rope_type": "linear", "factor": 2.5, "rope_theta": 700.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 5000.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 900.0}
YARN_MSCALE = {**YARN, "mscale": 0.7, "mscale_all_dim": 0.3, "beta_fast": 20.0, "beta_slow": 2.0, "truncate": False}


@dataclass(frozen=True)
class Case:
    family: str
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    tied: bool = False
    dtype: str = "float32"
    shard: str = "5GB"
    rope: dict[str, Any] = field(default_factory=lambda: {"rope_type": "default", "rope_theta": 500.0})
    more: dict[str, Any] = field(default_factory=dict)


CASES = {
    "llama": Case("llama", 6, 3, 10, 48),
    "llama biases": Case("llama", 4, 1, 12, 40, more={"attention_bias": True, "mlp_bias": True}),
    "llama llama3 tied f16": Case("llama", 6, 2, 16, 96, tied=True, dtype="float16", rope=LLAMA3),
    "llama linear": Case("llama", 4, 4, 8, 32, rope=LINEAR),
    "qwen2": Case("qwen2", 6, 3, 14, 60),
    "qwen2 tied bf16 shards": Case("qwen2", 4, 2, 8, 32, tied=True, dtype="bfloat16", shard="8KB"),
    "qwen2 yarn": Case("qwen2", 4, 2, 16, 64, rope=YARN),
    "qwen3": Case("qwen3", 6, 3, 16, 56),
    "qwen3 bias tied shards": Case("qwen3", 5, 1, 6, 28, tied=True, shard="10KB", more={"attention_bias": True}),
    "qwen3 yarn mscale": Case("qwen3", 6, 3, 20, 44, rope=YARN_MSCALE),
}
PREFIXES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def save_random(case: Case, folder: Path) -> Any:
    """A random model of `case` saved in its stored type, and the same weights opened again in float32."""
    kind = PREFIXES[case.family]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=131,
        hidden_size=case.hidden,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.head_dim,
        max_position_embeddings=128,
        tie_word_embeddings=case.tied,
        rope_parameters=dict(case.rope),
        eos_token_id=[3, 5],
        rms_norm_eps=1e-5,
        **case.more,
    )
    torch.manual_seed(sum(map(ord, case.family)) + case.hidden)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():  # at std 0.3 attention is so sharp that both sides are 1e-4 from float64
        for name, weight in model.named_parameters():
            weight.normal_(mean=1.0 if "norm" in name else 0.0, std=0.2 if weight.dim() > 1 else 0.5)
    model.to(getattr(torch, case.dtype)).save_pretrained(folder, max_shard_size=case.shard)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("label", CASES)
def test_logits_match_transformers(label: str, tmp_path: Path) -> None:
    case = CASES[label]
    reference = save_random(case, tmp_path)
    module = load_hf("m", tmp_path, 96)
    assert violations(module) == []
    ids = np.random.default_rng(1).integers(0, 131, (2, 80))
    with torch.no_grad():
        expected = reference(torch.tensor(ids)).logits.numpy()
    assert np.abs(expected).max() > 1.0  # logits that say something
    oracle = DecoderOracle(module)
    np.testing.assert_allclose(oracle.batch_logits(ids), expected, rtol=0, atol=1e-4)
    chunks = [oracle.forward(ids[0, a:b].tolist()) for a, b in ((0, 1), (1, 8), (8, 71), (71, 80))]
    np.testing.assert_allclose(np.concatenate(chunks), expected[0], rtol=0, atol=1e-4)
    oracle.rollback(9)
    again = oracle.forward(ids[0, 9:20].tolist())
    np.testing.assert_allclose(again, expected[0, 9:20], rtol=0, atol=1e-4)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or case.shard == "5GB"


@pytest.mark.parametrize("label", CASES)
def test_arch_and_graph_agree_on_names(label: str, tmp_path: Path) -> None:
    reference = save_random(CASES[label], tmp_path)
    module = load_hf("m", tmp_path, 96)
    arch = module.arch
    assert arch is not None
    assert [node.name for node in module.nodes()] == arch.node_names()
    assert set(arch.linear_names()) <= set(arch.node_names())
    stored = {name.removeprefix("model."): tuple(w.shape) for name, w in reference.named_parameters()}
    assert arch.tensors() == stored
    assert arch.eos == (3, 5)
    frequencies = reference.model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(arch.inverse_frequencies(), frequencies, rtol=2e-6)
    assert arch.rope.attention_factor == pytest.approx(reference.model.rotary_emb.attention_scaling, rel=1e-6)


@pytest.mark.parametrize(
    "rope", [None, LINEAR, LLAMA3, YARN, YARN_MSCALE], ids=["none", "linear", "llama3", "yarn", "ms"]
)
def test_both_config_forms_read_alike(rope: dict[str, Any] | None, tmp_path: Path) -> None:
    case = Case("qwen2", 4, 2, 8, 32, rope=rope or {"rope_type": "default", "rope_theta": 123.0})
    save_random(case, tmp_path)
    new = read_arch(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    section = config.pop("rope_parameters")
    config["rope_theta"] = section.pop("rope_theta")
    kind = section.pop("rope_type")
    config["rope_scaling"] = {"type": kind, **section} if rope else None
    path.write_text(json.dumps(config))
    assert read_arch(tmp_path) == new


def test_weights_stay_in_their_file(tmp_path: Path) -> None:
    """Loading reads headers only: the data may be anything until someone asks for rows."""
    save_random(CASES["qwen3"], tmp_path)
    path = tmp_path / "model.safetensors"
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    module = load_hf("m", tmp_path, 96)
    raw[8 + length :] = bytes(len(raw) - 8 - length)
    path.write_bytes(raw)
    weight = module.constant(module.main.graph.initializers["embed_tokens.weight"])
    assert weight is not None
    assert not weight.numpy().any()


def test_a_tied_head_is_one_tensor(tmp_path: Path) -> None:
    save_random(CASES["qwen2 tied bf16 shards"], tmp_path)
    module = load_hf("m", tmp_path, 96)
    embed, head = module.node("embed_tokens"), module.node("lm_head.transpose")
    assert embed is not None
    assert head is not None
    assert embed.inputs[0] is head.inputs[0]
    assert "lm_head.weight" not in module.main.graph.initializers
