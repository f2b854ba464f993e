"""A Hugging Face folder as an ONNX file with ONNX Runtime's own ops, as onnxruntime-genai's model builder writes it.

Names, order and attributes are those of the builder's files (0.18) for the CPU: one linear for q, k and v, a mask that
GroupQueryAttention has itself, rotary embedding inside it, sums inside the norms. With MultiHeadAttention, as its
optimiser fuses decoders with as many K/V heads as heads: a mask that is added, rotary embedding in ops of its own.
With Attention of ONNX 23: the same, for any number of K/V heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from edgec.compiler.sources.hf.load_hf import load_hf
from onnx import TensorProto, helper, numpy_helper

Integers = Literal["", "nbits", "nbits zero points", "qdq"]
BLOCK = 32
_RUNTIME = "com.microsoft"


class Writer:
    """The graph of one folder; `integers`: how its linears are stored. `q` holds the integers [N,K] by linear."""

    def __init__(self, folder: Path, context: int, op: str, integers: Integers = "") -> None:
        module = load_hf("m", folder, context)
        assert module.arch is not None
        self.arch, self.op, self.integers = module.arch, op, integers
        held = module.main.graph.initializers
        self.weights = {
            name: value.const_value.numpy() for name, value in held.items() if value.const_value is not None
        }
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.q: dict[str, np.ndarray] = {}
        self.floats: dict[str, np.ndarray] = {}  # what the integers stand for
        self.positions = 2 * context

    def add(self, op_type: str, name: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def runtime(self, op_type: str, name: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        return self.add(op_type, name, inputs, outputs, domain=_RUNTIME, **attributes)

    def constant(self, name: str, array: np.ndarray, kind: int | None = None) -> str:
        made = numpy_helper.from_array(array, name)
        if kind is not None:
            made = helper.make_tensor(name, kind, array.shape, array.reshape(-1))
        self.constants.append(made)
        return name

    def linear(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        made = f"{name}/output_0"
        if self.integers:
            self._of_integers(name, x, weight, made)
        else:
            self.add("MatMul", name, [x, self.constant(f"{name}.weight", np.ascontiguousarray(weight.T))], [made])
        if bias is None:
            return made
        return self.add("Add", f"{name}/Add", [made, self.constant(f"{name}.bias", bias)], [f"{made}.biased"])

    def _of_integers(self, name: str, x: str, weight: np.ndarray, made: str) -> None:
        n, k = weight.shape
        groups = weight.reshape(n, k // BLOCK, BLOCK)
        scale = np.abs(groups).max(axis=2).astype(np.float32) / np.float32(7)
        q = np.clip(np.round(groups / scale[..., None]), -8, 7).astype(np.int8).reshape(n, k)
        zero = np.full(scale.shape, 8, np.uint8)
        if self.integers == "nbits zero points":
            zero -= np.arange(n, dtype=np.uint8)[:, None] % 3
        stored = (q + 8).astype(np.uint8)
        offset = zero.astype(np.float32).repeat(BLOCK, axis=1)
        self.q[name] = q if self.integers != "nbits zero points" else stored
        self.floats[name] = (stored.astype(np.float32) - offset) * scale.repeat(BLOCK, axis=1)
        if self.integers == "qdq":
            packed = self.constant(f"{name}.weight_DQ_Q4", np.ascontiguousarray(q.T), TensorProto.INT4)
            scales = self.constant(f"{name}.scales", np.ascontiguousarray(scale.T))
            self.add("DequantizeLinear", f"{name}_DQ", [packed, scales], [f"{made}.w"], axis=0, block_size=BLOCK)
            self.add("MatMul", name, [x, f"{made}.w"], [made])
            return
        inputs = [x, self.constant(f"{name}.weight_Q4", _nibbles(stored).reshape(n, k // BLOCK, BLOCK // 2))]
        inputs.append(self.constant(f"{name}.scales", scale.reshape(-1)))
        if self.integers == "nbits zero points":
            padded = np.pad(zero, ((0, 0), (0, zero.shape[1] % 2)), constant_values=8)
            inputs.append(self.constant(f"{name}.zeros", _nibbles(padded).reshape(-1)))
        self.runtime("MatMulNBits", name, inputs, [made], K=k, N=n, bits=4, block_size=BLOCK, accuracy_level=4)

    def skip_norm(self, name: str, x: str, y: str, gain: str, last: bool = False) -> tuple[str, str]:
        """(norm of x + y, x + y)."""
        outputs = [f"{name}/output_0"] if last else [f"{name}/output_0", "", "", f"{name}/output_3"]
        inputs = [x, y, self.constant(f"{name}.weight", self.weights[gain])]
        self.runtime("SkipSimplifiedLayerNormalization", name, inputs, outputs, epsilon=self.arch.rms_eps)
        return outputs[0], outputs[-1]

    def heads_norm(self, name: str, x: str, gain: str, heads: int) -> str:
        """A norm of each head, between two Reshapes."""
        width = heads * self.arch.head_dim
        apart = self.constant(f"{name}.apart", np.array([0, -1, self.arch.head_dim], np.int64))
        together = self.constant(f"{name}.together", np.array([0, -1, width], np.int64))
        self.add("Reshape", f"{name}/Reshape_1", [x, apart], [f"{name}/apart"])
        weight = self.constant(f"{name}.weight", self.weights[gain])
        self.add(
            "SimplifiedLayerNormalization", name, [f"{name}/apart", weight], [f"{name}/normed"], axis=-1, stash_type=1,
            epsilon=self.arch.rms_eps,
        )  # fmt: skip
        return self.add("Reshape", f"{name}/Reshape_2", [f"{name}/normed", together], [f"{name}/output_0"])

    def qkv(self, layer: int, x: str) -> list[str]:
        """q, k and v: as one where nothing comes between them and attention, else apart."""
        arch, name = self.arch, f"/model/layers.{layer}/attn"
        prefix = f"layers.{layer}.self_attn"
        parts = [self.weights[f"{prefix}.{part}_proj.weight"] for part in "qkv"]
        biases = [self.weights.get(f"{prefix}.{part}_proj.bias") for part in "qkv"]
        bias = None if biases[0] is None else np.concatenate([one for one in biases if one is not None])
        if self.op != "GroupQueryAttention":
            rows = zip("qkv", parts, biases, strict=True)
            return [self.linear(f"{name}/{part}_proj/MatMul", x, weight, one) for part, weight, one in rows]
        joined = self.linear(f"{name}/qkv_proj/MatMul", x, np.concatenate(parts), bias)
        if not arch.qk_norm:
            return [joined, "", ""]
        sizes = self.constant(f"{name}.sizes", np.array([len(part) for part in parts], np.int64))
        made = [f"{name}/split_{part}" for part in "qkv"]
        self.add("Split", f"{name}/qkv_proj/Split", [joined, sizes], made, axis=-1)
        for at, (part, heads) in enumerate((("q", arch.heads), ("k", arch.kv_heads))):
            made[at] = self.heads_norm(f"{name}/{part}_norm", made[at], f"{prefix}.{part}_norm.weight", heads)
        return made

    def attention(self, layer: int, x: str) -> str:
        arch, name = self.arch, f"/model/layers.{layer}/attn"
        parts, made = self.qkv(layer, x), f"{name}/{self.op}/output_0"
        past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
        present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
        if self.op == "GroupQueryAttention":
            inputs = [*parts, *past, "lengths", "total", "cos_cache", "sin_cache", "", ""]
            self.runtime(
                self.op, f"{name}/{self.op}", inputs, [made, *present], num_heads=arch.heads,
                kv_num_heads=arch.kv_heads, scale=arch.score_scale, do_rotary=1, rotary_interleaved=0, softcap=0.0,
                local_window_size=arch.window if arch.has_window(layer) and arch.window else -1,
            )  # fmt: skip
        else:
            for at in range(2):
                turned = f"{name}/{'qk'[at]}_rotary"
                inputs = [parts[at], "position_ids", "cos_cache", "sin_cache"]
                heads = (arch.heads, arch.kv_heads)[at]
                parts[at] = self.runtime("RotaryEmbedding", turned, inputs, [f"{turned}/output_0"], num_heads=heads)
        if self.op == "Attention":
            self.add(
                self.op, f"{name}/{self.op}", [*parts, "added_mask", *past], [made, *present], scale=arch.score_scale,
                q_num_heads=arch.heads, kv_num_heads=arch.kv_heads,
            )  # fmt: skip
        elif self.op == "MultiHeadAttention":
            self.runtime(
                self.op, f"{name}/{self.op}", [*parts, "", "", "added_mask", *past], [made, *present],
                num_heads=arch.heads, scale=arch.score_scale,
            )  # fmt: skip
        output = self.weights[f"layers.{layer}.self_attn.o_proj.weight"]
        return self.linear(f"{name}/o_proj/MatMul", made, output)

    def mlp(self, layer: int, x: str) -> str:
        name, held = f"/model/layers.{layer}/mlp", f"layers.{layer}.mlp"
        gate = self.linear(f"{name}/gate_proj/MatMul", x, self.weights[f"{held}.gate_proj.weight"])
        up = self.linear(f"{name}/up_proj/MatMul", x, self.weights[f"{held}.up_proj.weight"])
        self.add("Sigmoid", f"{name}/act_fn/Sigmoid", [gate], [f"{name}/gated"])
        self.add("Mul", f"{name}/act_fn/Mul", [gate, f"{name}/gated"], [f"{name}/act"])
        self.add("Mul", f"{name}/Mul", [f"{name}/act", up], [f"{name}/product"])
        return self.linear(f"{name}/down_proj/MatMul", f"{name}/product", self.weights[f"{held}.down_proj.weight"])

    def masks(self) -> None:
        """`lengths` and `total` of GroupQueryAttention; or an additive mask [1,1,S,T] and the positions."""
        one, zero = (self.constant(f"number_{n}", np.array([n], np.int64)) for n in (1, 0))
        if self.op == "GroupQueryAttention":
            self.add("ReduceSum", "/model/mask/ReduceSum", ["attention_mask", one], ["seen"])
            self.add("Sub", "/model/mask/Sub", ["seen", one], ["less_one"])
            self.add("Cast", "/model/mask/Cast", ["less_one"], ["lengths"], to=TensorProto.INT32)
            self.add("Shape", "/model/mask/Shape", ["attention_mask"], ["mask_shape"])
            at = self.constant("axis_1", np.array(1, np.int64))
            self.add("Gather", "/model/mask/Gather", ["mask_shape", at], ["mask_length"], axis=0)
            self.add("Cast", "/model/mask/Cast_1", ["mask_length"], ["total"], to=TensorProto.INT32)
            return
        self.add("Shape", "/model/mask/Shape", ["attention_mask"], ["total_shape"], start=1, end=2)
        at = self.constant("first", np.array(0, np.int64))
        last = self.constant("step", np.array(1, np.int64))
        self.add("Squeeze", "/model/mask/Squeeze", ["total_shape", zero], ["total_length"])
        self.add("Range", "/model/mask/Range", [at, "total_length", last], ["slots"])
        self.add(
            "Unsqueeze", "/model/mask/Unsqueeze", ["position_ids", self.constant("axis_2", np.array([2]))], ["rows"]
        )
        self.add("LessOrEqual", "/model/mask/LessOrEqual", ["slots", "rows"], ["seen"])
        low, none = (self.constant(f"mask_{n}", np.array(n, np.float32)) for n in (-1e9, 0))
        self.add("Where", "/model/mask/Where", ["seen", none, low], ["by_rows"])
        self.add("Unsqueeze", "/model/mask/Unsqueeze_1", ["by_rows", one], ["added_mask"])

    def model(self) -> onnx.ModelProto:
        arch, float_, int_ = self.arch, TensorProto.FLOAT, TensorProto.INT64
        angles = np.arange(self.positions)[:, None] * np.array(arch.inverse_frequencies(), np.float32)
        self.constant("cos_cache", np.cos(angles.astype(np.float32)))
        self.constant("sin_cache", np.sin(angles.astype(np.float32)))
        self.masks()
        table = self.constant("model.embed_tokens.weight", self.weights["embed_tokens.weight"])
        x = self.add("Gather", "/model/embed_tokens/Gather", [table, "input_ids"], ["/model/embed"])
        gain = self.constant("first.weight", self.weights["layers.0.input_layernorm.weight"])
        normed = self.add(
            "SimplifiedLayerNormalization", "/model/layers.0/input_layernorm", [x, gain], ["/model/first"], axis=-1,
            epsilon=arch.rms_eps, stash_type=1,
        )  # fmt: skip
        for layer in range(arch.layers):
            y = self.attention(layer, normed)
            held = f"layers.{layer}.post_attention_layernorm"
            normed, x = self.skip_norm(f"/model/{held}", x, y, f"{held}.weight")
            y, last = self.mlp(layer, normed), layer + 1 == arch.layers
            held = "norm" if last else f"layers.{layer + 1}.input_layernorm"
            normed, x = self.skip_norm(f"/model/{held}/Skip", x, y, f"{held}.weight", last)
        head = "embed_tokens.weight" if arch.tied else "lm_head.weight"
        logits = self.linear("/lm_head/MatMul", normed, self.weights[head])
        self.add("Identity", "/lm_head/Identity", [logits], ["logits"])
        new, every = ["batch_size", "sequence_length"], ["batch_size", "total_sequence_length"]
        inputs = [("input_ids", int_, new), ("attention_mask", int_, every)]
        inputs += [("position_ids", int_, new)] if self.op != "GroupQueryAttention" else []
        outputs: list[tuple[str, int, list[Any]]] = [("logits", float_, [*new, arch.vocab])]
        for layer in range(arch.layers):
            for kind in ("key", "value"):
                shape = ["batch_size", arch.kv_heads, "past_sequence_length", arch.head_dim]
                inputs.append((f"past_key_values.{layer}.{kind}", float_, shape))
                outputs.append((f"present.{layer}.{kind}", float_, [*shape[:2], "total_sequence_length", shape[3]]))
        values = [[helper.make_tensor_value_info(*one) for one in some] for some in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, "main", *values, initializer=self.constants)
        opsets = [helper.make_opsetid("", 23 if self.op == "Attention" else 21), helper.make_opsetid(_RUNTIME, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _nibbles(stored: np.ndarray) -> np.ndarray:
    """Two values a byte, the first one low."""
    return stored[..., 0::2] | stored[..., 1::2] << 4
