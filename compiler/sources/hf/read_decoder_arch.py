"""What a decoder is, read from its Hugging Face config: dimensions, names and shapes of its tensors and ops.

Plain Python and json, so that `edgec check` can ask without importing an array library. L layers, hidden H,
intermediate F, heads Q, K/V heads G, head_dim D, vocabulary V:

    q_proj [Q*D, H]   k_proj, v_proj [G*D, H]   o_proj [H, Q*D]   gate_proj, up_proj [F, H]   down_proj [H, F]
"""

from __future__ import annotations

from pathlib import Path

from ...diagnostics.diagnostic import fail
from ...ir.decoder_arch import ATTENTION_LINEARS, Activation, DecoderArch
from ...ir.rope import RopeSpec
from .config_file import Config, read_json
from .families import FAMILIES, Family
from .layer_kinds import AS_ONNX
from .quantised.read_scheme import read_quantised
from .read_rope import read_local_rope, read_rope

_MOST_LAYERS = 4096
_MOST_POSITIONS = 2**31 - 1
_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
_MODALITY_KEYS = ("vision_config", "audio_config", "text_config", "thinker_config")


def read_arch(folder: Path) -> DecoderArch:
    """From `folder`/config.json and generation_config.json; anything the graph builder does not know is an error."""
    path = folder / "config.json"
    given = Config(read_json(path), path)
    name = _family(given)
    family = FAMILIES[name]
    config = given.with_defaults(family.defaults)
    _refuse_features(config, family)
    layers = config.integer("num_hidden_layers", maximum=_MOST_LAYERS)
    kinds = family.kinds(config, layers)
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", None if family.states_kv_heads else heads)
    hidden = config.integer("hidden_size")
    head_dim = _head_dim(config, hidden, heads)
    if heads % kv_heads:
        fail("E0337", f"`{path}`: {heads} attention heads cannot share {kv_heads} K/V heads evenly")
    positions = config.integer("max_position_embeddings")
    rope = read_rope(config, family, positions, head_dim)
    bos, eos = _token_ids(folder, config)
    return DecoderArch(
        family=name,
        layers=layers,
        hidden=hidden,
        intermediate=config.integer("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=config.integer("vocab_size"),
        max_positions=_reach(positions, rope),
        rms_eps=config.number("rms_norm_eps"),
        tied=config.boolean("tie_word_embeddings", False),
        attention_bias=_attention_bias(config, family),
        mlp_bias=family.mlp_bias and config.boolean("mlp_bias", False),
        qk_norm=family.qk_norm,
        activation=_ACTIVATIONS[config.text(family.activation_key, "silu")],
        rope=rope,
        bos=bos,
        eos=eos,
        window=kinds.window,
        local=kinds.local,
        local_rope=read_local_rope(config, family, positions, head_dim),
        nope=kinds.nope,
        attention_scale=_attention_scale(config, family),
        embedding_scale=hidden**0.5 if family.scaled_embedding else 1.0,
        sandwich_norms=family.sandwich_norms,
    )


def _family(config: Config) -> str:
    for key in _MODALITY_KEYS:
        if key in config:
            message = f"`{config.path}` describes a multimodal model (`{key}`), which edgec cannot build"
            fail("E0333", message, help=AS_ONNX)
    for key in _EXPERT_KEYS:
        if key in config:
            message = f"`{config.path}` describes a mixture of experts (`{key}`), which edgec cannot build"
            fail("E0333", message, help=AS_ONNX)
    family = config.text("model_type")
    if family not in FAMILIES:
        known = ", ".join(f"`{name}`" for name in FAMILIES)
        message = f"`{config.path}` is of the family `{family}`, which edgec does not know"
        fail("E0332", message, help=f"known: {known}; {AS_ONNX}")
    return family


def _refuse_features(config: Config, family: Family) -> None:
    read_quantised(config.path.parent, config)  # refuses what it does not know
    for name in config.strings("architectures"):
        if not name.endswith("ForCausalLM"):
            message = f"`{config.path}` describes a `{name}`, which is not a causal language model"
            fail("E0333", message, help=AS_ONNX)
    if not config.boolean("is_causal", True):
        message = f"`{config.path}` attends in both directions (`is_causal: false`), which edgec cannot build"
        fail("E0333", message, help=AS_ONNX)
    for key, feature in family.refused.items():
        if config.values.get(key) not in (None, False):
            fail("E0333", f"`{config.path}` asks for {feature} (`{key}`), which edgec cannot build", help=AS_ONNX)
    activation = config.text(family.activation_key, "silu")
    if activation not in _ACTIVATIONS:
        known = " and ".join(f"`{name}`" for name in _ACTIVATIONS if name != "swish")
        message = f"`{config.path}` uses the activation `{activation}`, edgec builds {known}"
        fail("E0333", message, help=AS_ONNX)


def _head_dim(config: Config, hidden: int, heads: int) -> int:
    if "head_dim" not in config and hidden % heads:
        fail("E0337", f"`{config.path}`: hidden size {hidden} does not divide by {heads} attention heads")
    head_dim = config.integer("head_dim", hidden // heads or None)
    if head_dim % 2:
        fail("E0337", f"`{config.path}`: head_dim {head_dim} is odd, rotary embedding turns pairs")
    return head_dim


def _attention_bias(config: Config, family: Family) -> tuple[str, ...]:
    if family.attention_bias is not None:
        return family.attention_bias
    return ATTENTION_LINEARS if config.boolean("attention_bias", False) else ()


def _attention_scale(config: Config, family: Family) -> float | None:
    """Families that scale by another number than head_dim name it; the others do not read that key."""
    if "query_pre_attn_scalar" not in family.defaults:
        return None
    return config.number("query_pre_attn_scalar") ** -0.5


def _reach(positions: int, rope: RopeSpec) -> int:
    """Configs state the unscaled positions for linear scaling, and often for yarn."""
    if rope.kind == "linear":
        return min(int(positions * rope.factor), _MOST_POSITIONS)
    if rope.kind == "longrope":
        return rope.original_positions
    if rope.kind == "yarn":
        return max(positions, min(int(rope.original_positions * rope.factor), _MOST_POSITIONS))
    return positions


def _token_ids(folder: Path, config: Config) -> tuple[int | None, tuple[int, ...]]:
    """BOS and EOS; generation_config.json, which decides what ends a text, goes before config.json."""
    path = folder / "generation_config.json"
    generation = Config(read_json(path), path) if path.exists() else Config({}, path)
    bos = generation.ids("bos_token_id") or config.ids("bos_token_id")
    return (bos[0] if bos else None), generation.ids("eos_token_id") or config.ids("eos_token_id")
