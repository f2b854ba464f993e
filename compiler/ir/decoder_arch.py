"""What a decoder-only language model is: sizes, biases, norms, rotary embedding; the names of its tensors and nodes.

The families differ in these facts only: nothing behind the sources asks for a family by its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .rope import RopeSpec

ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
Activation = Literal["silu", "gelu_tanh"]
WINDOW_NODES = (
    "length_of_past", "past", "distance_of_past", "row", "new_distance", "distance", "inside", "steep", "cut",
    "by_head", "mask",
)  # fmt: skip


@dataclass(frozen=True)
class DecoderArch:
    """One decoder-only language model of a known family.

    local            layers that attend to `window` positions at most, their own among them
    local_rope       the rotary embedding of `local` layers where it is not `rope`
    nope             layers without rotary embedding
    attention_scale  what the scores are multiplied by; 1 / sqrt(head_dim) where it is None
    sandwich_norms   norms behind attention and MLP too, before their sum with the residual stream
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    rms_eps: float
    tied: bool
    attention_bias: tuple[str, ...]  # which of q_proj, k_proj, v_proj, o_proj
    mlp_bias: bool
    qk_norm: bool
    activation: Activation
    rope: RopeSpec
    bos: int | None
    eos: tuple[int, ...]
    window: int | None = None
    local: tuple[int, ...] = ()
    local_rope: RopeSpec | None = None
    nope: tuple[int, ...] = ()
    attention_scale: float | None = None
    embedding_scale: float = 1.0
    sandwich_norms: bool = False

    def within(self, context: int) -> DecoderArch:
        """The same decoder for texts of at most `context` tokens: a window as long as that leaves nothing out."""
        return replace(self, window=None) if self.window is not None and self.window >= context else self

    def rope_of(self, layer: int) -> RopeSpec | None:
        """The rotary embedding of a layer, None where it has none."""
        if layer in self.nope:
            return None
        return self.local_rope or self.rope if layer in self.local else self.rope

    def ropes(self) -> dict[str, RopeSpec]:
        """The distinct rotary embeddings that layers have, by the prefix of their nodes."""
        used = [self.rope_of(layer) for layer in range(self.layers)]
        found = {"rotary": self.rope} if self.rope in used else {}
        if self.local_rope is not None and self.local_rope in used:
            found["rotary_local"] = self.local_rope
        return found

    def has_window(self, layer: int) -> bool:
        """Whether the attention of a layer leaves positions out that lie too far back."""
        return self.window is not None and layer in self.local

    @property
    def windowed(self) -> bool:
        """Whether any layer has a window."""
        return any(self.has_window(layer) for layer in range(self.layers))

    @property
    def score_scale(self) -> float:
        """What the scores of every attention are multiplied by."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def linears(self) -> dict[str, tuple[int, int]]:
        """Name -> [N, K] of every linear in the order it runs, the head last."""
        out = {}
        for layer in range(self.layers):
            for name, shape in self._layer_linears().items():
                out[f"layers.{layer}.{name}"] = shape
        out["lm_head"] = (self.vocab, self.hidden)
        return out

    def weights(self) -> dict[str, tuple[int, int]]:
        """Name -> [N, K] of every linear and of the embedding (its K is the hidden size)."""
        return {"embed_tokens": (self.vocab, self.hidden), **self.linears()}

    def linear_names(self) -> list[str]:
        """Names of all linears, in the order of the graph."""
        return list(self.linears())

    def has_bias(self, linear: str) -> bool:
        """Whether the linear of that name has a bias."""
        leaf = linear.rpartition(".")[2]
        return leaf in self.attention_bias or (self.mlp_bias and leaf in _MLP)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight the graph needs, as initializers are named."""
        out: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            prefix = f"layers.{layer}"
            out[f"{prefix}.input_layernorm.weight"] = (self.hidden,)
            out[f"{prefix}.post_attention_layernorm.weight"] = (self.hidden,)
            if self.sandwich_norms:
                out[f"{prefix}.pre_feedforward_layernorm.weight"] = (self.hidden,)
                out[f"{prefix}.post_feedforward_layernorm.weight"] = (self.hidden,)
            if self.qk_norm:
                out[f"{prefix}.self_attn.q_norm.weight"] = (self.head_dim,)
                out[f"{prefix}.self_attn.k_norm.weight"] = (self.head_dim,)
            for name, (n, k) in self._layer_linears().items():
                out[f"{prefix}.{name}.weight"] = (n, k)
                if self.has_bias(name):
                    out[f"{prefix}.{name}.bias"] = (n,)
        out["norm.weight"] = (self.hidden,)
        if not self.tied:
            out["lm_head.weight"] = (self.vocab, self.hidden)
        return out

    def node_names(self) -> list[str]:
        """Every node of the semantic graph in the order it runs; what a plan's globs can match."""
        names = ["embed_tokens", *(["embed_scale"] if self.embedding_scale != 1.0 else [])]
        if self.ropes() or self.windowed:
            names += ["rotary.cast", "rotary.unsqueeze"]
        for prefix, rope in self.ropes().items():
            scaled = ["cos_scaled", "sin_scaled"] if rope.attention_factor != 1.0 else []
            names += [f"{prefix}.{name}" for name in ("angle", "cos", "sin", *scaled)]
        if self.windowed:
            names += [f"window.{name}" for name in WINDOW_NODES]
        for layer in range(self.layers):
            names += [f"layers.{layer}.{name}" for name in self._layer_nodes(layer)]
        return [*names, "norm", *self._linear_nodes("lm_head")]

    def inverse_frequencies(self) -> list[float]:
        """Radians per position of each pair of a head's channels, head_dim / 2 of them."""
        return self.rope.inverse_frequencies(self.head_dim)

    def _layer_linears(self) -> dict[str, tuple[int, int]]:
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (q, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, q),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    def _linear_nodes(self, name: str) -> list[str]:
        return [f"{name}.transpose", name, *([f"{name}.bias_add"] if self.has_bias(name) else [])]

    def _layer_nodes(self, layer: int) -> list[str]:
        attention, names = "self_attn", ["input_layernorm"]
        for part in "qkv":
            names += [*self._linear_nodes(f"{attention}.{part}_proj"), f"{attention}.{part}_reshape"]
            if self.qk_norm and part != "v":
                names.append(f"{attention}.{part}_norm")
            names.append(f"{attention}.{part}_transpose")
            if part != "v" and self.rope_of(layer) is not None:
                names.append(f"{attention}.{part}_rotary")
        names += [f"{attention}.{name}" for name in ("attention", "out_transpose", "out_reshape")]
        between = ["attn_residual", "post_attention_layernorm"]
        if self.sandwich_norms:
            between = ["post_attention_layernorm", "attn_residual", "pre_feedforward_layernorm"]
        names += [*self._linear_nodes(f"{attention}.o_proj"), *between]
        names += [*self._linear_nodes("mlp.gate_proj"), *self._linear_nodes("mlp.up_proj"), "mlp.act", "mlp.mul"]
        after = ["post_feedforward_layernorm"] if self.sandwich_norms else []
        return [*names, *self._linear_nodes("mlp.down_proj"), *after, "mlp_residual"]
