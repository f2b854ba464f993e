"""What a decoder-only language model is: sizes, biases, norms, rotary embedding; the names of its tensors and nodes."""

from __future__ import annotations

from dataclasses import dataclass

from .rope import RopeSpec

FAMILIES = ("llama", "qwen2", "qwen3")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class DecoderArch:
    """One decoder-only language model of a known family."""

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
    activation: str
    rope: RopeSpec
    bos: int | None
    eos: tuple[int, ...]

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
        rotary = ["cast", "unsqueeze", "angle", "cos", "sin"]
        if self.rope.attention_factor != 1.0:
            rotary += ["cos_scaled", "sin_scaled"]
        names = ["embed_tokens", *(f"rotary.{name}" for name in rotary)]
        layer_names = self._layer_nodes()
        for layer in range(self.layers):
            names += [f"layers.{layer}.{name}" for name in layer_names]
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

    def _layer_nodes(self) -> list[str]:
        attention, names = "self_attn", ["input_layernorm"]
        for part in "qkv":
            names += [*self._linear_nodes(f"{attention}.{part}_proj"), f"{attention}.{part}_reshape"]
            if self.qk_norm and part != "v":
                names.append(f"{attention}.{part}_norm")
            names.append(f"{attention}.{part}_transpose")
            if part != "v":
                names.append(f"{attention}.{part}_rotary")
        names += [f"{attention}.{name}" for name in ("attention", "out_transpose", "out_reshape")]
        names += [*self._linear_nodes(f"{attention}.o_proj"), "attn_residual", "post_attention_layernorm"]
        names += [*self._linear_nodes("mlp.gate_proj"), *self._linear_nodes("mlp.up_proj"), "mlp.act", "mlp.mul"]
        return [*names, *self._linear_nodes("mlp.down_proj"), "mlp_residual"]
