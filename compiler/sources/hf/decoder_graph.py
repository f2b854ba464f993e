"""The semantic graph of a decoder: opset 24, float32, dynamic shapes, K/V caches as graph inputs and outputs.

    B batch, S new positions, P past positions, T = P + S; H hidden, Q heads, G K/V heads, D head_dim, V vocabulary

    x       = embed[input_ids]                                                   [B,S,H]
    q, k, v = heads(rms(x) Wq^T), heads(rms(x) Wk^T), heads(rms(x) Wv^T)         [B,Q,S,D] [B,G,S,D] [B,G,S,D]
    q, k    = rope(norm(q)), rope(norm(k))                                       norm for Qwen3 only
    x       = x + softmax(q [K_past, k]^T / sqrt(D) + mask) [V_past, v] Wo^T
    x       = x + (silu(rms(x) Wgate^T) * (rms(x) Wup^T)) Wdown^T
    logits  = rms(x) Whead^T                                                     [B,S,V]

Outputs carry only the new positions of K (after rope) and V; who runs the graph appends them to the cache.
`mask` is additive, [B or 1,1,S,T], 0 or -1000. Weights keep the orientation [out, in] of their source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...ir import kv_names
from ...ir.decoder_arch import DecoderArch
from ...ir.module import initializer
from ...ir.opset import IR_VERSION, OPSET
from ...ir.weights import Weight, from_array

_FLOAT, _INT32 = ir.DataType.FLOAT, ir.DataType.INT32

Dim = int | str


def build(arch: DecoderArch, weights: Mapping[str, Weight]) -> ir.Model:
    """The graph for `arch`; `weights` holds a float32 tensor for each name in `arch.tensors()`."""
    return _Builder(arch, weights).model()


class _Builder:
    def __init__(self, arch: DecoderArch, weights: Mapping[str, Weight]) -> None:
        self.arch = arch
        self.weights = weights
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="main")

    def model(self) -> ir.Model:
        arch = self.arch
        ids = self._input("input_ids", _INT32, ("B", "S"))
        positions = self._input("position_ids", _INT32, ("B", "S"))
        self.mask = self._input("attention_mask", _FLOAT, ("MB", 1, "S", "T"))
        cache_shape = ("B", arch.kv_heads, "P", arch.head_dim)
        self.past = [
            [self._input(name, _FLOAT, cache_shape) for name in kv_names.pair(layer, kv_names.IN)]
            for layer in range(arch.layers)
        ]
        x = self._op("Gather", "embed_tokens", [self._weight("embed_tokens.weight"), ids], ("B", "S", arch.hidden))
        self.cos, self.sin = self._rotary(positions)
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

    def _rotary(self, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
        """cos and sin of position * frequency, [B,S,D/2], times the attention factor where scaling has one."""
        half = self.arch.head_dim // 2
        frequencies = np.array(self.arch.inverse_frequencies(), np.float32).reshape(1, 1, half)
        x = self._op("Cast", "rotary.cast", [positions], ("B", "S"), to=int(_FLOAT))
        axes = self._constant("rotary.axes", np.array([2], np.int64))
        x = self._op("Unsqueeze", "rotary.unsqueeze", [x, axes], ("B", "S", 1))
        shape = ("B", "S", half)
        angle = self._op("Mul", "rotary.angle", [x, self._constant("rotary.inv_freq", frequencies)], shape)
        cos, sin = (self._op(op, f"rotary.{op.lower()}", [angle], shape) for op in ("Cos", "Sin"))
        if self.arch.rope.attention_factor == 1.0:
            return cos, sin
        factor = self._constant("rotary.attention_factor", np.array(self.arch.rope.attention_factor, np.float32))
        return (
            self._op("Mul", "rotary.cos_scaled", [cos, factor], shape),
            self._op("Mul", "rotary.sin_scaled", [sin, factor], shape),
        )

    def _layer(self, layer: int, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        arch, name = self.arch, f"layers.{layer}"
        wide = ("B", "S", arch.hidden)
        normed = self._norm(f"{name}.input_layernorm", x, wide)
        y, key, value = self._attention(layer, normed)
        x = self._op("Add", f"{name}.attn_residual", [x, y], wide)
        normed = self._norm(f"{name}.post_attention_layernorm", x, wide)
        inner = ("B", "S", arch.intermediate)
        gate = self._linear(f"{name}.mlp.gate_proj", normed, arch.intermediate)
        up = self._linear(f"{name}.mlp.up_proj", normed, arch.intermediate)
        gate = self._op("Swish", f"{name}.mlp.act", [gate], inner)
        product = self._op("Mul", f"{name}.mlp.mul", [gate, up], inner)
        down = self._linear(f"{name}.mlp.down_proj", product, arch.hidden)
        return self._op("Add", f"{name}.mlp_residual", [x, down], wide), key, value

    def _attention(self, layer: int, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        arch, name = self.arch, f"layers.{layer}.self_attn"
        query, key, value = (self._heads(name, part, x) for part in "qkv")
        key.name, value.name = kv_names.pair(layer, kv_names.OUT)
        width = arch.heads * arch.head_dim
        total = ("B", arch.kv_heads, "T", arch.head_dim)
        y, *_present = self._ops(
            "Attention",
            f"{name}.attention",
            [query, key, value, self.mask, *self.past[layer]],
            {  # the presents are never read, but ONNX Runtime demands them wherever there is a past
                f"{name}.attention": ("B", arch.heads, "S", arch.head_dim),
                f"{name}.attention.present_key": total,
                f"{name}.attention.present_value": total,
            },
            scale=arch.head_dim**-0.5,
        )
        shape = ("B", "S", arch.heads, arch.head_dim)
        y = self._op("Transpose", f"{name}.out_transpose", [y], shape, perm=[0, 2, 1, 3])
        merged = self._constant("attention.merged_shape", np.array([0, 0, width], np.int64))
        y = self._op("Reshape", f"{name}.out_reshape", [y, merged], ("B", "S", width))
        return self._linear(f"{name}.o_proj", y, arch.hidden), key, value

    def _heads(self, attention: str, part: str, x: ir.Value) -> ir.Value:
        """One of q, k, v as [B, heads, S, D], normalised and rotated as the family wants it."""
        arch, name = self.arch, f"{attention}.{part}"
        count, kind = (arch.heads, "query") if part == "q" else (arch.kv_heads, "cache")
        split = ("B", "S", count, arch.head_dim)
        x = self._linear(f"{name}_proj", x, count * arch.head_dim)
        shape = self._constant(f"attention.{kind}_shape", np.array([0, 0, count, arch.head_dim], np.int64))
        x = self._op("Reshape", f"{name}_reshape", [x, shape], split)
        if arch.qk_norm and part != "v":
            x = self._norm(f"{name}_norm", x, split)
        by_head = ("B", count, "S", arch.head_dim)
        x = self._op("Transpose", f"{name}_transpose", [x], by_head, perm=[0, 2, 1, 3])
        if part == "v":
            return x
        return self._op("RotaryEmbedding", f"{name}_rotary", [x, self.cos, self.sin], by_head)

    def _linear(self, name: str, x: ir.Value, width: int, weight: str | None = None) -> ir.Value:
        """x [B,S,K] times the transpose of W [N,K], plus the bias where the family has one."""
        tensor = weight or f"{name}.weight"
        depth = self.weights[tensor].dims[1]
        wt = self._op("Transpose", f"{name}.transpose", [self._weight(tensor)], (depth, width), perm=[1, 0])
        y = self._op("MatMul", name, [x, wt], ("B", "S", width))
        if not self.arch.has_bias(name):
            return y
        return self._op("Add", f"{name}.bias_add", [y, self._weight(f"{name}.bias")], ("B", "S", width))

    def _norm(self, name: str, x: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        gain = self._weight(f"{name}.weight")
        return self._op("RMSNormalization", name, [x, gain], shape, axis=-1, epsilon=self.arch.rms_eps)

    def _input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def _weight(self, name: str) -> ir.Value:
        return initializer(self.graph, name, self.weights[name])

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        return initializer(self.graph, name, from_array(name, array))

    def _op(self, op: str, name: str, inputs: list[ir.Value], shape: Sequence[Dim], **attributes: object) -> ir.Value:
        return self._ops(op, name, inputs, {name: shape}, **attributes)[0]

    def _ops(
        self, op: str, name: str, inputs: list[ir.Value], outputs: Mapping[str, Sequence[Dim]], **attributes: object
    ) -> list[ir.Value]:
        """Append a node; each output value has the name and shape given, float32."""
        made = [
            ir.Value(name=f"{key}.out", type=ir.TensorType(_FLOAT), shape=ir.Shape(shape))
            for key, shape in outputs.items()
        ]
        made_of = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items()]  # type: ignore[arg-type]
        self.graph.append(ir.Node("", op, inputs, made_of, outputs=made, name=name))
        return made
