"""The families of decoders: what each `model_type` means, one entry each (docs/developing/adding-a-family.md).

An entry says how a config of the family is read and how its checkpoint is stored. What the model computes is then a
`DecoderArch`, and nothing behind it asks for the family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .config_file import Config
from .layer_kinds import LayerKinds, all_alike, all_local, last_local, local_by_type, without_rope

_QKV, _GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


@dataclass(frozen=True)
class Family:
    """How one family differs from Llama.

    defaults          what transformers takes for keys that config.json does not have
    states_kv_heads   whether a config has to say how many K/V heads there are; else: as many as heads
    kinds             which layers attend to a window, which have no rotary embedding
    attention_bias    linears of an attention with a bias; None: all four if the config has `attention_bias`
    mlp_bias          whether the config's `mlp_bias` is obeyed
    qk_norm           norms of the heads of q and k
    sandwich_norms    norms behind attention and MLP as well
    gain_offset       what is added to every stored gain of a norm
    scaled_embedding  whether embeddings are multiplied by sqrt(hidden)
    theta             the rotary base where the config names none; local_theta: that of layers with a window
    rope_words        words for a rope scaling that mean another one in this family
    activation_key    the key that names the activation
    fused             stored linear of a layer -> the linears whose rows it holds, in this order
    refused           keys that change the model when they are set, and what they ask for
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    states_kv_heads: bool = False
    kinds: Callable[[Config, int], LayerKinds] = all_alike
    attention_bias: tuple[str, ...] | None = ()
    mlp_bias: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    gain_offset: float = 0.0
    scaled_embedding: bool = False
    theta: float = 10_000.0
    local_theta: float | None = None
    rope_words: Mapping[str, str] = field(default_factory=dict)
    activation_key: str = "hidden_act"
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


FAMILIES: Mapping[str, Family] = {
    "llama": Family(attention_bias=None, mlp_bias=True),
    "mistral": Family(defaults={"sliding_window": 4096, "num_key_value_heads": 8}, kinds=all_local),
    "qwen2": Family(states_kv_heads=True, kinds=last_local, attention_bias=_QKV),
    "qwen3": Family(
        defaults={"head_dim": 128}, states_kv_heads=True, kinds=last_local, attention_bias=None, qk_norm=True
    ),
    "smollm3": Family(
        defaults={"num_key_value_heads": 4, "tie_word_embeddings": True},
        kinds=without_rope,
        attention_bias=None,
        mlp_bias=True,
        theta=2_000_000.0,
    ),
    "phi3": Family(
        kinds=all_local,
        rope_words={"su": "longrope", "yarn": "longrope"},
        fused={
            "self_attn.qkv_proj": tuple(f"self_attn.{name}" for name in _QKV),
            "mlp.gate_up_proj": tuple(f"mlp.{name}" for name in _GATE_UP),
        },
    ),
    "gemma3_text": Family(
        defaults={
            "head_dim": 256,
            "max_position_embeddings": 131_072,
            "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-6,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
        },
        kinds=local_by_type,
        attention_bias=None,
        qk_norm=True,
        sandwich_norms=True,
        gain_offset=1.0,
        scaled_embedding=True,
        theta=1_000_000.0,
        local_theta=10_000.0,
        activation_key="hidden_activation",
        refused={
            "attn_logit_softcapping": "softcapped attention scores",
            "final_logit_softcapping": "softcapped logits",
            "use_bidirectional_attention": "attention to later positions",
        },
    ),
}
