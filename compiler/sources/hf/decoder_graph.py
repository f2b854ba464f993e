"""The semantic graph of a decoder: opset 24, float32, dynamic shapes, K/V caches as graph inputs and outputs.

    B batch, S new positions, P past positions, T = P + S; H hidden, Q heads, G K/V heads, D head_dim, V vocabulary

    x       = embed[input_ids] (* scale)                                         [B,S,H]
    q, k, v = heads(rms(x) Wq^T), heads(rms(x) Wk^T), heads(rms(x) Wv^T)         [B,Q,S,D] [B,G,S,D] [B,G,S,D]
    q, k    = rope(norm(q)), rope(norm(k))                                       norm, rope: where the layer has them
    x       = x + post(softmax(q [K_past, k]^T * scale + mask) [V_past, v] Wo^T)
    x       = x + post((act(rms(x) Wgate^T) * (rms(x) Wup^T)) Wdown^T)           post: an rms of its own, or nothing
    logits  = rms(x) Whead^T                                                     [B,S,V]

Outputs carry only the new positions of K (after rope) and V; who runs the graph appends them to the cache.
`mask` is additive, [B or 1,1,S,T], 0 or -1000. Weights keep the orientation [out, in] of their source.
Layers with a window have a mask of their own (`decoder_prologue.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir import kv_names
from ...ir.decoder_arch import Activation, DecoderArch
from ...ir.opset import IR_VERSION
from ...ir.weights import Weight
from .decoder_prologue import Shared, prologue
from .graph_builder import Dim, GraphBuilder

_FLOAT, _INT32 = ir.DataType.FLOAT, ir.DataType.INT32
_ACTIVATIONS: dict[Activation, tuple[str, dict[str, Any]]] = {
    "silu": ("Swish", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
}


def build(arch: DecoderArch, weights: Mapping[str, Weight], context: int) -> ir.Model:
    """The graph for texts of `context` tokens; `weights` holds a float32 tensor for each name in `arch.tensors()`."""
    return _Builder(arch, weights, context).model()


class _Builder(GraphBuilder):
    def __init__(self, arch: DecoderArch, weights: Mapping[str, Weight], context: int) -> None:
        super().__init__(weights)
        self.arch, self.context = arch, context

    def model(self) -> ir.Model:
        arch = self.arch
        ids = self.input("input_ids", _INT32, ("B", "S"))
        positions = self.input("position_ids", _INT32, ("B", "S"))
        self.mask = self.input("attention_mask", _FLOAT, ("MB", 1, "S", "T"))
        cache_shape = ("B", arch.kv_heads, "P", arch.head_dim)
        self.past = [
            [self.input(name, _FLOAT, cache_shape) for name in kv_names.pair(layer, kv_names.IN)]
            for layer in range(arch.layers)
        ]
        x = self.op("Gather", "embed_tokens", [self.weight("embed_tokens.weight"), ids], ("B", "S", arch.hidden))
        if arch.embedding_scale != 1.0:
            scale = self.constant("embed_scale.factor", np.array(arch.embedding_scale, np.float32))
            x = self.op("Mul", "embed_scale", [x, scale], ("B", "S", arch.hidden))
        self.turns, self.window_mask = prologue(self, arch, self.context, Shared(positions, self.mask, self.past[0][0]))
        new: list[ir.Value] = []
        for layer in range(arch.layers):
            x, key, value = self._layer(layer, x)
            new += [key, value]
        x = self._norm("norm", x, ("B", "S", arch.hidden))
        head = "embed_tokens.weight" if arch.tied else "lm_head.weight"
        logits = self._linear("lm_head", x, arch.vocab, weight=head)
        logits.name = "logits"
        self.graph.outputs.extend([logits, *new])
        return ir.Model(self.graph, ir_version=IR_VERSION, producer_name="edgec")

    def _layer(self, layer: int, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        arch, name = self.arch, f"layers.{layer}"
        wide = ("B", "S", arch.hidden)
        normed = self._norm(f"{name}.input_layernorm", x, wide)
        y, key, value = self._attention(layer, normed)
        if arch.sandwich_norms:
            y = self._norm(f"{name}.post_attention_layernorm", y, wide)
        x = self.op("Add", f"{name}.attn_residual", [x, y], wide)
        before = "pre_feedforward" if arch.sandwich_norms else "post_attention"
        normed = self._norm(f"{name}.{before}_layernorm", x, wide)
        inner = ("B", "S", arch.intermediate)
        gate = self._linear(f"{name}.mlp.gate_proj", normed, arch.intermediate)
        up = self._linear(f"{name}.mlp.up_proj", normed, arch.intermediate)
        op, attributes = _ACTIVATIONS[arch.activation]
        gate = self.op(op, f"{name}.mlp.act", [gate], inner, **attributes)
        product = self.op("Mul", f"{name}.mlp.mul", [gate, up], inner)
        down = self._linear(f"{name}.mlp.down_proj", product, arch.hidden)
        if arch.sandwich_norms:
            down = self._norm(f"{name}.post_feedforward_layernorm", down, wide)
        return self.op("Add", f"{name}.mlp_residual", [x, down], wide), key, value

    def _attention(self, layer: int, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        arch, name = self.arch, f"layers.{layer}.self_attn"
        query, key, value = (self._heads(layer, part, x) for part in "qkv")
        key.name, value.name = kv_names.pair(layer, kv_names.OUT)
        width = arch.heads * arch.head_dim
        total = ("B", arch.kv_heads, "T", arch.head_dim)
        y, *_present = self.ops(
            "Attention",
            f"{name}.attention",
            [query, key, value, self.window_mask if arch.has_window(layer) else self.mask, *self.past[layer]],
            {  # the presents are never read, but ONNX Runtime demands them wherever there is a past
                f"{name}.attention": ("B", arch.heads, "S", arch.head_dim),
                f"{name}.attention.present_key": total,
                f"{name}.attention.present_value": total,
            },
            scale=arch.score_scale,
        )
        shape = ("B", "S", arch.heads, arch.head_dim)
        y = self.op("Transpose", f"{name}.out_transpose", [y], shape, perm=[0, 2, 1, 3])
        merged = self.constant("attention.merged_shape", np.array([0, 0, width], np.int64))
        y = self.op("Reshape", f"{name}.out_reshape", [y, merged], ("B", "S", width))
        return self._linear(f"{name}.o_proj", y, arch.hidden), key, value

    def _heads(self, layer: int, part: str, x: ir.Value) -> ir.Value:
        """One of q, k, v as [B, heads, S, D], normalised and rotated as the layer wants it."""
        arch, name = self.arch, f"layers.{layer}.self_attn.{part}"
        count, kind = (arch.heads, "query") if part == "q" else (arch.kv_heads, "cache")
        split = ("B", "S", count, arch.head_dim)
        x = self._linear(f"{name}_proj", x, count * arch.head_dim)
        shape = self.constant(f"attention.{kind}_shape", np.array([0, 0, count, arch.head_dim], np.int64))
        x = self.op("Reshape", f"{name}_reshape", [x, shape], split)
        if arch.qk_norm and part != "v":
            x = self._norm(f"{name}_norm", x, split)
        by_head = ("B", count, "S", arch.head_dim)
        x = self.op("Transpose", f"{name}_transpose", [x], by_head, perm=[0, 2, 1, 3])
        rope = arch.rope_of(layer)
        if part == "v" or rope is None:
            return x
        return self.op("RotaryEmbedding", f"{name}_rotary", [x, *self.turns[rope]], by_head)

    def _linear(self, name: str, x: ir.Value, width: int, weight: str | None = None) -> ir.Value:
        """x [B,S,K] times the transpose of W [N,K], plus the bias where the family has one."""
        tensor = weight or f"{name}.weight"
        depth = self.weights[tensor].dims[1]
        wt = self.op("Transpose", f"{name}.transpose", [self.weight(tensor)], (depth, width), perm=[1, 0])
        y = self.op("MatMul", name, [x, wt], ("B", "S", width))
        if not self.arch.has_bias(name):
            return y
        return self.op("Add", f"{name}.bias_add", [y, self.weight(f"{name}.bias")], ("B", "S", width))

    def _norm(self, name: str, x: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        gain = self.weight(f"{name}.weight")
        return self.op("RMSNormalization", name, [x, gain], shape, axis=-1, epsilon=self.arch.rms_eps)
