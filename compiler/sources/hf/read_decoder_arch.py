"""What a decoder is, read from its Hugging Face config: dimensions, names and shapes of its tensors and ops.

Plain Python and json, so that `edgec check` can ask without importing an array library. L layers, hidden H,
intermediate F, heads Q, K/V heads G, head_dim D, vocabulary V:

    q_proj [Q*D, H]   k_proj, v_proj [G*D, H]   o_proj [H, Q*D]   gate_proj, up_proj [F, H]   down_proj [H, F]
"""

from __future__ import annotations

from pathlib import Path

from ...diagnostics.diagnostic import fail
from ...ir.decoder_arch import _ATTENTION, FAMILIES, DecoderArch
from ...ir.rope import RopeSpec
from .config_file import Config, read_json
from .quantised.read_scheme import read_quantised
from .read_rope import read_rope

_MOST_LAYERS = 4096
_MOST_POSITIONS = 2**31 - 1
_OWN_HEAD_DIM = {"qwen3": 128}  # what transformers takes where a config has none
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
_MODALITY_KEYS = ("vision_config", "audio_config", "text_config", "thinker_config")


def read_arch(folder: Path) -> DecoderArch:
    """From `folder`/config.json and generation_config.json; anything the graph builder does not know is an error."""
    path = folder / "config.json"
    config = Config(read_json(path), path)
    family = _family(config)
    _refuse_features(config)
    layers = config.integer("num_hidden_layers", maximum=_MOST_LAYERS)
    _refuse_sliding_window(config, family, layers)
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads if family == "llama" else None)
    hidden = config.integer("hidden_size")
    head_dim = _head_dim(config, hidden, heads, family)
    if heads % kv_heads:
        fail("E0337", f"`{path}`: {heads} attention heads cannot share {kv_heads} K/V heads evenly")
    positions = config.integer("max_position_embeddings")
    rope = read_rope(config, positions)
    bos, eos = _token_ids(folder, config)
    return DecoderArch(
        family=family,
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
        mlp_bias=family == "llama" and config.boolean("mlp_bias", False),
        qk_norm=family == "qwen3",
        activation="silu",
        rope=rope,
        bos=bos,
        eos=eos,
    )


def _family(config: Config) -> str:
    for key in _MODALITY_KEYS:
        if key in config:
            fail("E0333", f"`{config.path}` describes a multimodal model (`{key}`), which edgec cannot build")
    for key in _EXPERT_KEYS:
        if key in config:
            fail("E0333", f"`{config.path}` describes a mixture of experts (`{key}`), which edgec cannot build")
    family = config.text("model_type")
    if family not in FAMILIES:
        known = ", ".join(f"`{name}`" for name in FAMILIES)
        fail("E0332", f"`{config.path}` is of the family `{family}`, which edgec does not know", help=f"known: {known}")
    return family


def _refuse_features(config: Config) -> None:
    read_quantised(config.path.parent, config)  # refuses what it does not know
    for name in config.strings("architectures"):
        if not name.endswith("ForCausalLM"):
            fail("E0333", f"`{config.path}` describes a `{name}`, which is not a causal language model")
    if not config.boolean("is_causal", True):
        fail("E0333", f"`{config.path}` attends in both directions (`is_causal: false`), edgec builds causal decoders")
    activation = config.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        fail("E0333", f"`{config.path}` uses the activation `{activation}`, edgec builds `silu` only")


def _refuse_sliding_window(config: Config, family: str, layers: int) -> None:
    types = set(config.strings("layer_types"))
    slides = family != "llama" and config.boolean("use_sliding_window", False) and "sliding_window" in config
    if not types and slides and config.integer("max_window_layers", 28, minimum=0) < layers:
        types = {"sliding_attention"}
    for kind in sorted(types - {"full_attention"}):
        fail("E0333", f"`{config.path}` has layers of type `{kind}`, edgec builds `full_attention` only")


def _head_dim(config: Config, hidden: int, heads: int, family: str) -> int:
    if "head_dim" not in config and family in _OWN_HEAD_DIM:
        return _OWN_HEAD_DIM[family]
    if "head_dim" not in config and hidden % heads:
        fail("E0337", f"`{config.path}`: hidden size {hidden} does not divide by {heads} attention heads")
    head_dim = config.integer("head_dim", hidden // heads or None)
    if head_dim % 2:
        fail("E0337", f"`{config.path}`: head_dim {head_dim} is odd, rotary embedding turns pairs")
    return head_dim


def _attention_bias(config: Config, family: str) -> tuple[str, ...]:
    if family == "qwen2":
        return ("q_proj", "k_proj", "v_proj")
    return _ATTENTION if config.boolean("attention_bias", False) else ()


def _reach(positions: int, rope: RopeSpec) -> int:
    """Configs state the unscaled positions for linear scaling, and often for yarn."""
    if rope.kind == "linear":
        return min(int(positions * rope.factor), _MOST_POSITIONS)
    if rope.kind == "yarn":
        return max(positions, min(int(rope.original_positions * rope.factor), _MOST_POSITIONS))
    return positions


def _token_ids(folder: Path, config: Config) -> tuple[int | None, tuple[int, ...]]:
    """BOS and EOS; generation_config.json, which decides what ends a text, goes before config.json."""
    path = folder / "generation_config.json"
    generation = Config(read_json(path), path) if path.exists() else Config({}, path)
    bos = generation.ids("bos_token_id") or config.ids("bos_token_id")
    return (bos[0] if bos else None), generation.ids("eos_token_id") or config.ids("eos_token_id")
