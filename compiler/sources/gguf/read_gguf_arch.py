"""What a decoder is, read from a GGUF's metadata; what the file's tensors decide (tied heads, biases) from their names.

Keys are `<architecture>.<key>`. A key of the architecture that is not read here could change what the model computes:
it is refused by name.
"""

from __future__ import annotations

from typing import Any

from ...diagnostics.diagnostic import fail
from ...ir.decoder_arch import DecoderArch
from ...ir.rope import RopeSpec
from ..hf.config_file import Config
from ..hf.read_rope import mscale
from .gguf_file import GgufFile

FAMILIES = ("llama", "qwen2", "qwen3")
ROPE_FACTORS = "rope_freqs.weight"  # [D/2]: what each rotary frequency is divided by
_MOST_LAYERS = 4096
_READ = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count", "rope.freq_base",
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor", "rope.scale_linear",
}  # fmt: skip
_WITHOUT_EFFECT = {"rope.scaling.finetuned", "tensor_data_layout"}  # notes of the converter
_BIASES = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}


def read_gguf_arch(file: GgufFile) -> DecoderArch:
    """The architecture that `file` describes; PlanError for what the graph builder does not know."""
    family = _family(file)
    config = file.section(f"{family}.")
    _refuse_unread(config, family)
    hidden, heads = config.integer("embedding_length"), config.integer("attention.head_count")
    kv_heads = config.integer("attention.head_count_kv", heads)
    if heads % kv_heads:
        fail("E0337", f"`{file.path}`: {heads} attention heads cannot share {kv_heads} K/V heads evenly")
    positions = config.integer("context_length")
    head_dim = _head_dim(config, hidden, heads)
    rope = _rope(file, config, positions, head_dim)
    bos, eos = token_ids(file)
    return DecoderArch(
        family=family,
        layers=config.integer("block_count", maximum=_MOST_LAYERS),
        hidden=hidden,
        intermediate=config.integer("feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=config.integer("vocab_size", len(file.config.strings("tokenizer.ggml.tokens")) or None),
        max_positions=int(positions * rope.factor) if rope.kind == "linear" else positions,
        rms_eps=config.number("attention.layer_norm_rms_epsilon"),
        tied="output.weight" not in file.tensors,
        attention_bias=tuple(ours for theirs, ours in _BIASES.items() if f"blk.0.{theirs}.bias" in file.tensors),
        mlp_bias="blk.0.ffn_up.bias" in file.tensors,
        qk_norm=family == "qwen3",
        activation="silu",
        rope=rope,
        bos=bos,
        eos=eos,
    )


def token_ids(file: GgufFile) -> tuple[int | None, tuple[int, ...]]:
    """BOS, and every token that ends a text: the file's EOS, end of turn and end of message."""
    tokens = file.section("tokenizer.ggml.")
    bos = tokens.ids("bos_token_id")
    ends = [i for key in ("eos_token_id", "eot_token_id", "eom_token_id") for i in tokens.ids(key)]
    return (bos[0] if bos else None), tuple(dict.fromkeys(ends))


def _family(file: GgufFile) -> str:
    if file.metadata.get("split.count", 1) != 1:
        help = "join them with llama.cpp's `llama-gguf-split --merge FIRST JOINED.gguf`"
        fail("E0333", f"`{file.path}` is one of {file.metadata['split.count']} pieces of a model", help=help)
    kind = file.config.text("general.type", "model")
    if kind != "model":
        fail("E0333", f"`{file.path}` holds no model, its `general.type` is `{kind}`")
    family = file.config.text("general.architecture")
    if family not in FAMILIES:
        known = ", ".join(f"`{name}`" for name in FAMILIES)
        message = f"`{file.path}` is of the architecture `{family}`, which edgec does not know"
        fail("E0332", message, help=f"known in GGUF: {known}; any other model can come in as ONNX")
    return family


def _refuse_unread(config: Config, family: str) -> None:
    for key, value in sorted(config.values.items()):
        known = key in _READ or key in _WITHOUT_EFFECT
        if not known and not _says_nothing(value):
            message = f"`{config.path}` sets `{family}.{key}` to {value!r:.40}, which edgec cannot build"
            fail("E0333", message, help="start from a model without it; any graph can come in as ONNX")


def _says_nothing(value: Any) -> bool:
    """Zero, false and the empty string switch nothing on (`expert_count` 0)."""
    return not value


def _head_dim(config: Config, hidden: int, heads: int) -> int:
    if "attention.key_length" not in config and hidden % heads:
        fail("E0337", f"`{config.path}`: hidden size {hidden} does not divide by {heads} attention heads")
    head_dim = config.integer("attention.key_length", hidden // heads or None)
    if head_dim % 2:
        fail("E0337", f"`{config.path}`: heads of {head_dim} are odd, rotary embedding rotates pairs")
    if config.integer("attention.value_length", head_dim) != head_dim:
        fail("E0333", f"`{config.path}` has keys and values of different length, which edgec cannot build")
    if config.integer("rope.dimension_count", head_dim) != head_dim:
        message = f"`{config.path}` uses partial rotary embedding (`rope.dimension_count`), which edgec cannot build"
        fail("E0333", message)
    return head_dim


def _rope(file: GgufFile, config: Config, positions: int, head_dim: int) -> RopeSpec:
    """Without a type a factor scales linearly, as in llama.cpp: files from before there were types have no other."""
    theta = config.number("rope.freq_base", 10_000.0)
    factor = config.number("rope.scaling.factor", config.number("rope.scale_linear", 1.0, positive=False) or 1.0)
    kind = config.text("rope.scaling.type", "linear")
    if kind == "linear" and factor == 1.0:
        kind = "none"
    if ROPE_FACTORS in file.tensors:
        if kind != "none":
            fail("E0334", f"`{file.path}` has both `{ROPE_FACTORS}` and rope scaling of type `{kind}`")
        return RopeSpec(theta, "factors", factors=_factors(file, head_dim))
    if kind == "none":
        return RopeSpec(theta)
    if kind == "linear":
        return RopeSpec(theta, "linear", factor)
    if kind != "yarn":
        fail("E0334", f"`{file.path}` asks for rope scaling of type `{kind}`, which edgec cannot build")
    for key in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        if config.number(f"rope.scaling.{key}", 1.0) != 1.0:
            fail("E0334", f"`{file.path}` sets `rope.scaling.{key}`, which edgec cannot build")
    return RopeSpec(
        theta,
        "yarn",
        factor,
        mscale(factor, 1),
        config.integer("rope.scaling.original_context_length", positions),
        beta_fast=config.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=config.number("rope.scaling.yarn_beta_slow", 1.0),
    )


def _factors(file: GgufFile, head_dim: int) -> tuple[float, ...]:
    from array import array

    stored = file.tensors[ROPE_FACTORS]
    if stored.shape != (head_dim // 2,) or stored.type.name != "F32":
        message = f"tensor `{ROPE_FACTORS}` in `{file.path}` is {stored.type.name}{list(stored.shape)}"
        fail("E0345", f"{message}, the metadata asks for F32[{head_dim // 2}]")
    return tuple(array("f", bytes(stored.file.read(stored.offset, stored.row_bytes))))
