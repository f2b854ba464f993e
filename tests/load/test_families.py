"""Each family's logits against transformers: tiny random models, several variants of what its config can say."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.sources.hf.families import FAMILIES
from edgec.compiler.sources.hf.load_hf import load_hf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONTEXT, VOCAB = 96, 131
FULL, LOCAL = "full_attention", "sliding_attention"
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 300.0,
    "short_factor": [1.0, 1.1, 1.3, 1.7, 2.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0, 9.0],
    "original_max_position_embeddings": 96,
}
LONG = {"rope_parameters": LONGROPE, "max_position_embeddings": 384, "original_max_position_embeddings": 96}


@dataclass(frozen=True)
class Case:
    """`local` and `nope` are the layers that have to differ; `window` is 0 where none is left within the context."""

    family: str
    config: dict[str, Any]
    window: int = 0
    local: tuple[int, ...] = ()
    nope: tuple[int, ...] = ()
    drop: tuple[str, ...] = ()  # keys to take out of config.json: transformers' defaults count
    rename: dict[str, str] = field(default_factory=dict)  # prefix of stored names -> another


def gemma(**more: Any) -> dict[str, Any]:
    return {"num_hidden_layers": 6, "query_pre_attn_scalar": 10, "sliding_window": 9, **more}


CASES = {
    "mistral window shorter": Case("mistral", {"sliding_window": 7}, 7, (0, 1)),
    "mistral window of one": Case("mistral", {"sliding_window": 1, "head_dim": 6}, 1, (0, 1)),
    "mistral window as long": Case("mistral", {"sliding_window": CONTEXT}, 0, (0, 1)),
    "mistral no window": Case("mistral", {"sliding_window": None, "tie_word_embeddings": True}),
    "mistral window unsaid": Case("mistral", {"num_key_value_heads": 2}, 0, (0, 1), drop=("sliding_window",)),
    "another family's scale": Case("qwen3", {"query_pre_attn_scalar": 40}),
    "smollm3": Case("smollm3", {"num_hidden_layers": 4}, nope=(3,)),
    "smollm3 listed biases": Case(
        "smollm3", {"no_rope_layers": [0, 1], "attention_bias": True, "mlp_bias": True}, nope=(0,)
    ),
    "smollm3 interval untied": Case(
        "smollm3",
        {"num_hidden_layers": 3, "no_rope_layer_interval": 2, "tie_word_embeddings": False},
        nope=(1,),
        drop=("no_rope_layers",),
    ),
    "smollm3 no rope at all": Case("smollm3", {"no_rope_layers": [0, 0]}, nope=(0, 1)),
    "smollm3 windows": Case(
        "smollm3", {"no_rope_layers": [0, 1], "use_sliding_window": True, "sliding_window": 5}, 5, (0,), (0,)
    ),
    "qwen2 last layers local": Case(
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        8,
        (1,),
        drop=("layer_types",),
    ),
    "qwen3 types": Case(
        "qwen3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": [LOCAL, FULL]}, 8, (0,)
    ),
    "qwen3 embedding names": Case("qwen3", {"attention_bias": True}, rename={"model.": ""}),
    "qwen3 head_dim unsaid": Case("qwen3", {"head_dim": 128}, drop=("head_dim",)),
    "phi3": Case("phi3", {"sliding_window": None}),
    "phi3 window": Case("phi3", {"sliding_window": 7, "num_key_value_heads": 6}, 7, (0, 1)),
    "phi3 longrope": Case("phi3", LONG),
    "gemma3": Case("gemma3_text", gemma(), 9, (0, 1, 2, 3, 4)),
    "gemma3 wide window": Case("gemma3_text", gemma(sliding_window=200), 0, (0, 1, 2, 3, 4)),
    "gemma3 biases untied": Case(
        "gemma3_text",
        gemma(num_hidden_layers=2, layer_types=[FULL, LOCAL], attention_bias=True, tie_word_embeddings=False),
        9,
        (1,),
    ),
    "gemma3 scaled rope": Case(
        "gemma3_text",
        gemma(
            num_hidden_layers=2,
            layer_types=[LOCAL, FULL],
            rope_parameters={
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 2000.0},
                LOCAL: {"rope_type": "default", "rope_theta": 90.0},
            },
        ),
        9,
        (0,),
    ),
    "gemma3 only local": Case("gemma3_text", gemma(num_hidden_layers=2), 9, (0, 1)),
}  # fmt: skip
KINDS = {
    "mistral": "Mistral", "smollm3": "SmolLM3", "qwen2": "Qwen2", "qwen3": "Qwen3", "phi3": "Phi3",
    "gemma3_text": "Gemma3",
}  # fmt: skip


def save_random(case: Case, folder: Path) -> Any:
    """A random model of `case` in float32, with what config.json does not say taken out."""
    kind = KINDS[case.family]
    heads = {} if case.family == "phi3" else {"head_dim": 10}
    base = {
        "vocab_size": VOCAB,
        "hidden_size": 60 if case.family == "phi3" else 48,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 128,
        "eos_token_id": [3, 5],
        "bos_token_id": 1,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5,
        **heads,
    }
    if case.family == "gemma3_text":
        config = transformers.Gemma3TextConfig(**{**base, **case.config})
    else:
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
        config = getattr(transformers, f"{kind}Config")(**{**base, **rope, **case.config})
    torch.manual_seed(7)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    centre = 0.0 if FAMILIES[case.family].gain_offset else 1.0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(mean=centre if "norm" in name else 0.0, std=0.2 if weight.dim() > 1 else 0.3)
    model.save_pretrained(folder)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    path = folder / "config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in said.items() if key not in case.drop}))
    if case.rename:
        _rename(folder / "model.safetensors", case.rename)
    return reference


def _rename(path: Path, prefixes: dict[str, str]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    for old, new in prefixes.items():
        tensors = {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}
    save_file(tensors, path)


@pytest.mark.parametrize("label", CASES)
def test_logits_match_transformers(label: str, tmp_path: Path) -> None:
    case = CASES[label]
    reference = save_random(case, tmp_path)
    module = load_hf("m", tmp_path, CONTEXT)
    arch = module.arch
    assert arch is not None
    assert (arch.window or 0, arch.local, arch.nope) == (case.window, case.local, case.nope)
    assert violations(module) == []
    assert [node.name for node in module.nodes()] == arch.node_names()
    ids = np.random.default_rng(1).integers(0, VOCAB, (2, 80))
    with torch.no_grad():
        expected = reference(torch.tensor(ids), use_cache=False).logits.numpy()
    assert np.abs(expected).max() > 1.0  # logits that say something
    oracle = DecoderOracle(module)
    np.testing.assert_allclose(oracle.batch_logits(ids), expected, rtol=0, atol=1e-4)
    chunks = [oracle.forward(ids[0, a:b].tolist()) for a, b in ((0, 1), (1, 8), (8, 71), (71, 80))]
    np.testing.assert_allclose(np.concatenate(chunks), expected[0], rtol=0, atol=1e-4)
    oracle.rollback(9)
    again = oracle.forward(ids[0, 9:20].tolist())
    np.testing.assert_allclose(again, expected[0, 9:20], rtol=0, atol=1e-4)


def test_longrope_ends_where_its_frequencies_change(tmp_path: Path) -> None:
    save_random(CASES["phi3 longrope"], tmp_path)
    with pytest.raises(PlanError) as caught:
        load_hf("m", tmp_path, 97)
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.help) == ("E0334", "set `context` to at most 96")
