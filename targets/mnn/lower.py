"""The semantic graph of a decoder, node by node, as the fused ops of MNN's LLM engine.

    MNN holds the S new positions as [S, width, 1, 1], packed by four channels.

    Gather                                       the engine looks embeddings up itself: a graph input
    MatMul (+ Add of a constant)                 Convolution 1x1, bias included
    Add, then RMSNormalization                   LayerNorm with two inputs: the sum and its norm
    Reshape, (norm,) Transpose, RotaryEmbedding  RoPE for q and k at once, their norms included
    Attention, Transpose, Reshape                Attention, which keeps K and V itself
    Swish, Mul                                   BinaryOp MUL_SILU

Each node of the graph is visited once and must find its operands in a form it knows; a node that does not fit (a
user's pass may have rewritten anything) is an error that names it. Forms that MNN has no op for wait, unlowered, for
the node that completes them (`forms.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import numpy as np
import onnx_ir as ir

from ...compiler.diagnostics import fail
from ...compiler.linears import Linear, as_linear, as_quantized
from ...compiler.module import constant
from . import blobs, tables
from .blobs import Blob
from .conformance import check_format
from .forms import Angle, Attended, Gate, Heads, Normed, Packed, Pending, Positions, Rotary, Sum
from .writer import Net

if TYPE_CHECKING:
    from ...compiler.module import Module

Form = Packed | Pending | Sum | Heads | Normed | Attended | Gate | Angle | Positions | Rotary
_ALL = 1 << 30  # an end beyond every sequence


class Lowering:
    """One pass over the graph. Afterwards `net` is complete, `blobs` says where each linear's weight lies."""

    def __init__(self, module: Module, weights: BinaryIO) -> None:
        if module.arch is None:
            raise ValueError(f"module `{module.name}` is no decoder")
        self.module, self.arch, self.file = module, module.arch, weights
        self.net = Net()
        self.blobs: dict[str, Blob] = {}
        self.linears: dict[str, Linear] = {}
        self.embedding: Linear | None = None
        self._forms: dict[ir.Value, Form] = {}
        self._rotaries: dict[tuple[int, int], tuple[int, int]] = {}
        self._hidden = self.net.input("input_ids", [-1, 1, self.arch.hidden], "DT_FLOAT")
        self._mask = self.net.input("attention_mask", [1, 1, -1, -1], "DT_FLOAT")
        positions = self.net.input("position_ids", [1, -1], "DT_INT32")
        self._index = self.net.input("logits_index", [1], "DT_INT32")
        graph = module.main.graph
        self._inputs = {value.name: value for value in graph.inputs}
        self._forms[self._input("position_ids")] = Positions(positions)

    def run(self) -> None:
        visit: dict[str, Callable[[ir.Node], None]] = {
            "Gather": self._gather,
            "MatMul": self._matmul,
            "Add": self._add,
            "Mul": self._mul,
            "Swish": self._swish,
            "RMSNormalization": self._norm,
            "Reshape": self._reshape,
            "Transpose": self._transpose,
            "RotaryEmbedding": self._rotary,
            "Attention": self._attention,
            "Cast": self._cast,
            "Unsqueeze": self._unsqueeze,
            "Cos": self._turn,
            "Sin": self._turn,
            "DequantizeLinear": self._dequantize,
        }
        graph = self.module.main.graph
        for node in graph:
            if node.op_type == "Constant":
                continue
            if node.domain not in ("", "ai.onnx") or node.op_type not in visit:
                self._refuse(node, "MNN's LLM engine has no op for it in a decoder")
            visit[node.op_type](node)
        self._outputs(graph)

    # --- what runs on the hidden state -----------------------------------------------------------------------

    def _gather(self, node: ir.Node) -> None:
        linear = as_linear(node)
        if linear is None or node.inputs[1] is not self._input("input_ids") or self.embedding is not None:
            self._refuse(node, "only the embedding of `input_ids` can be looked up")
        self.embedding = linear
        x = self.net.one("Reshape", [self._hidden], "hidden.rows", *tables.reshape([-1, self.arch.hidden, 1, 1]))
        x = self.net.one("ConvertTensor", [x], "hidden", *tables.layout("NCHW", "NC4HW4"))
        self._set(node, Packed(x, self.arch.hidden))

    def _matmul(self, node: ir.Node) -> None:
        linear = as_linear(node)
        if linear is None:
            self._refuse(node, "its second operand is not a constant weight")
        if linear.quant is not None and not linear.rows_are_outputs:
            self._refuse(node, "its quantised weight is stored as [in, out]")
        self._set(node, Pending(self._packed(node, 0), linear))

    def _add(self, node: ir.Node) -> None:
        left, right = (self._form(value) for value in node.inputs)
        bias = constant(node.inputs[1])
        if isinstance(left, Pending) and bias is not None and bias.dims == (left.linear.shape[0],):
            if left.index is not None or left.bias is not None:
                self._refuse(node, "the linear before it has its result used without the bias too")
            self._set(node, Pending(left.x, left.linear, bias.numpy().astype(np.float32)))
            return
        if left is None or right is None:
            self._refuse(node, "its operands are not two hidden states, nor a linear and its bias")
        self._set(node, Sum(node.name or "add", self._packed(node, 0), self._packed(node, 1)))

    def _mul(self, node: ir.Node) -> None:
        forms = [self._form(value) for value in node.inputs]
        for a, b in ((0, 1), (1, 0)):
            gate, angle = forms[a], forms[a]
            if isinstance(gate, Gate) and forms[b] is not None:
                made = self.net.one(
                    "BinaryOp",
                    [self._packed(node, b).index, gate.x.index],
                    node.name or "mul",
                    *tables.binary("MUL_SILU"),
                    layout="NC4HW4",
                )
                self._set(node, Packed(made, gate.x.width))
                return
            factor = constant(node.inputs[b])
            if isinstance(angle, Angle | Positions | Rotary) and factor is not None:
                self._scale(node, angle, factor.numpy().astype(np.float32))
                return
        self._refuse(node, "it multiplies neither a gate and a projection nor the rotary angles and a constant")

    def _swish(self, node: ir.Node) -> None:
        alpha = node.attributes.get("alpha")
        if alpha is not None and alpha.as_float() != 1.0:
            self._refuse(node, "its alpha is not 1")
        self._set(node, Gate(self._packed(node, 0)))

    def _norm(self, node: ir.Node) -> None:
        x, gamma = self._form(node.inputs[0]), constant(node.inputs[1])
        axis = node.attributes.get("axis")
        if gamma is None or (axis is not None and axis.as_int() != -1):
            self._refuse(node, "MNN normalises over the last axis, with a constant gain")
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        gain = gamma.numpy().astype(np.float32).reshape(-1)
        name = node.name or "norm"
        if isinstance(x, Heads) and x.stage == "split" and x.norm is None and gain.size == x.dim:
            self._set(node, x.with_norm(Normed(gain, epsilon)))
            return
        table = tables.norm(gain, epsilon)
        if isinstance(x, Sum) and x.index is None:
            pair = [x.left.index, x.right.index]
            x.index, made = self.net.add("LayerNorm", pair, [x.name, name], table, "NC4HW4")
            self._set(node, Packed(made, x.left.width))
            return
        packed = self._packed(node, 0)
        if gain.size != packed.width:
            self._refuse(node, f"its gain has {gain.size} values for a width of {packed.width}")
        self._set(node, Packed(self.net.one("LayerNorm", [packed.index], name, *table, layout="NC4HW4"), packed.width))

    # --- attention ------------------------------------------------------------------------------------------

    def _reshape(self, node: ir.Node) -> None:
        x, shape = self._form(node.inputs[0]), constant(node.inputs[1])
        dims = None if shape is None else [int(d) for d in shape.numpy()]
        if isinstance(x, Attended) and x.swapped and dims == [0, 0, x.heads * x.dim]:
            self._set(node, Packed(x.index, x.heads * x.dim))
            return
        if dims is not None and len(dims) == 4 and dims[:2] == [0, 0] and isinstance(x, Pending | Packed):
            packed = self._packed(node, 0)
            if dims[2] * dims[3] == packed.width:
                self._set(node, Heads(packed, dims[2], dims[3]))
                return
        self._refuse(node, "it neither splits a projection into heads nor joins the heads of an attention")

    def _transpose(self, node: ir.Node) -> None:
        value = node.inputs[0]
        if constant(value) is not None or as_quantized(value.producer() if value else None) is not None:
            return  # a weight: its MatMul reads through it
        perm = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else []
        x = self._form(value)
        if perm == [0, 2, 1, 3] and isinstance(x, Heads) and x.stage == "split":
            self._set(node, x.by_head())
        elif perm == [0, 2, 1, 3] and isinstance(x, Attended) and not x.swapped:
            self._set(node, Attended(x.index, x.heads, x.dim, swapped=True))
        else:
            self._refuse(node, "it turns neither heads nor the result of an attention")

    def _rotary(self, node: ir.Node) -> None:
        x, cos, sin = (self._form(value) for value in node.inputs[:3])
        why = "MNN rotates whole heads in halves, by cos and sin of the positions"
        if len(node.inputs) > 3 or any(_number(node, key) for key in ("interleaved", "rotary_embedding_dim")):
            self._refuse(node, why)
        if not isinstance(x, Heads) or x.stage != "by_head" or x.turn is not None:
            self._refuse(node, why)
        if not isinstance(cos, Rotary) or not isinstance(sin, Rotary) or (cos.op, sin.op) != ("COS", "SIN"):
            self._refuse(node, why)
        self._set(node, x.rotated(self._doubled(cos.index, sin.index)))

    def _attention(self, node: ir.Node) -> None:
        query, key, value = (self._form(v) for v in node.inputs[:3])
        if not (isinstance(query, Heads) and isinstance(key, Heads) and isinstance(value, Heads)):
            self._refuse(node, "its q, k, v are not heads of projections")
        plain = value.stage == "by_head" and value.turn is None
        if query.turn is None or key.turn != query.turn or not plain:
            self._refuse(node, "q and k have to be rotated by the same cos and sin, v not at all")
        if value.norm is not None or query.dim != key.dim or key.dim != value.dim or key.heads != value.heads:
            self._refuse(node, "its heads differ in a way MNN's Attention has no field for")
        if any(_number(node, key_) for key_ in ("is_causal", "softcap", "q_num_heads", "kv_num_heads")):
            self._refuse(node, "MNN's Attention has none of `is_causal`, `softcap`, `q_num_heads`")
        layer = self._cache(node)
        scale = _number(node, "scale") or query.dim**-0.5
        rope = self.net.add(
            "RoPE",
            [query.x.index, key.x.index, *query.turn],
            [f"{node.name}.query", f"{node.name}.key"],
            ("RoPEParam", _rope(query, key)),
        )
        parameter = {
            "kv_cache": True,
            "layer_index": layer,
            "kv_shared_layer_index": -1,
            "output_c4": True,
            "attnScale": scale,
        }
        made = self.net.one(
            "Attention",
            [*rope, value.x.index, self._mask],
            node.name or f"attention.{layer}",
            "AttentionParam",
            parameter,
        )
        self._set(node, Attended(made, query.heads, query.dim))

    def _cache(self, node: ir.Node) -> int:
        """The layer whose cache this attention reads; MNN keeps K and V itself, so they must be just these."""
        name = getattr(node.inputs[4], "name", None) or ""
        layer = name.removeprefix("past_key_").removesuffix("_in")
        wanted = (self._inputs.get(f"past_key_{layer}_in"), self._inputs.get(f"past_value_{layer}_in"))
        given = (node.inputs[4], node.inputs[5])
        kept = tuple(getattr(value, "name", None) for value in node.inputs[1:3])
        masked = node.inputs[3] is self._input("attention_mask")
        if not layer.isdigit() or given != wanted or not masked:
            self._refuse(node, "it does not read `attention_mask` and one layer's past K and V as they are")
        outputs = (f"past_key_{layer}_out", f"past_value_{layer}_out")
        if kept != outputs or any(node.outputs[i].uses() for i in range(1, len(node.outputs))):
            self._refuse(node, "the K and V it reads are not those the graph hands out")
        return int(layer)

    # --- rotary angles --------------------------------------------------------------------------------------

    def _cast(self, node: ir.Node) -> None:
        x = self._form(node.inputs[0])
        if not isinstance(x, Positions) or node.attributes["to"].as_int() != ir.DataType.FLOAT:
            self._refuse(node, "only the positions are cast, to float32")
        self._set(node, Positions(self.net.one("Cast", [x.index], "positions", *tables.cast("DT_INT32", "DT_FLOAT"))))

    def _unsqueeze(self, node: ir.Node) -> None:
        x = self._form(node.inputs[0])
        if not isinstance(x, Positions):
            self._refuse(node, "only the positions get a new axis")
        self._set(node, Angle(self.net.one("Reshape", [x.index], "positions.column", *tables.reshape([-1, 1]))))

    def _scale(self, node: ir.Node, x: Angle | Positions | Rotary, factor: np.ndarray) -> None:
        name = node.name or "scaled"
        flat = factor.reshape(1, -1)
        if isinstance(x, Positions) or (isinstance(x, Rotary) and flat.size != 1):
            self._refuse(node, "positions want a new axis first, cos and sin one factor")
        made = self.net.const(f"{name}.factor", flat)
        made = self.net.one("BinaryOp", [x.index, made], name, *tables.binary("MUL"))
        self._set(node, Rotary(made, x.op) if isinstance(x, Rotary) else Angle(made))

    def _turn(self, node: ir.Node) -> None:
        x = self._form(node.inputs[0])
        if not isinstance(x, Angle):
            self._refuse(node, "only rotary angles are turned")
        op = node.op_type.upper()
        self._set(node, Rotary(self.net.one("UnaryOp", [x.index], node.name or op, *tables.unary(op)), op))

    def _doubled(self, cos: int, sin: int) -> tuple[int, int]:
        """MNN wants cos and sin for whole heads [S, D]: the halves twice."""
        if (cos, sin) not in self._rotaries:
            names = (f"rotary.{len(self._rotaries)}.cos", f"rotary.{len(self._rotaries)}.sin")
            self._rotaries[cos, sin] = (
                self.net.one("Concat", [cos, cos], names[0], *tables.axis(-1)),
                self.net.one("Concat", [sin, sin], names[1], *tables.axis(-1)),
            )
        return self._rotaries[cos, sin]

    def _dequantize(self, node: ir.Node) -> None:
        if as_quantized(node) is None:
            self._refuse(node, "MNN takes quantised weights, not quantised activations")

    # --- forms ----------------------------------------------------------------------------------------------

    def _outputs(self, graph: ir.Graph) -> None:
        """`logits` is the head's; everything else handed out is a cache, which `_cache` has seen."""
        caches = {f"past_{part}_{layer}_out" for part in ("key", "value") for layer in range(self.arch.layers)}
        attended = sum(op["type"] == "Attention" for op in self.net.ops)
        logits = next((value for value in graph.outputs if value.name == "logits"), None)
        head = self._forms.get(logits) if logits is not None else None
        extra = [value.name for value in graph.outputs if value.name not in {"logits", *caches}]
        if extra or attended != self.arch.layers or not isinstance(head, Pending):
            what = f"output `{extra[0]}`" if extra else "graph, whose `logits` or attentions are not a decoder's,"
            fail("E0703", f"MNN's LLM engine cannot give the {what} of `{self.module.name}`")
        bounds = [self.net.const(f"last.{key}", np.array([value], np.int32)) for key, value in _LAST]
        kept = self.net.one(
            "StridedSlice",
            [head.x.index, self._index, *bounds],
            "last",
            "StridedSliceParam",
            {"fromType": 1},
            layout="NC4HW4",
        )
        x = self._write(Pending(Packed(kept, head.x.width), head.linear, head.bias))
        x = self.net.one("ConvertTensor", [x], "logits.plain", *tables.layout("NC4HW4", "NCHW"))
        self.net.one("Reshape", [x], "logits", *tables.reshape([1, -1, head.linear.shape[0]]))

    def _input(self, name: str) -> ir.Value:
        if name not in self._inputs:
            fail("E0703", f"the graph of `{self.module.name}` has no input `{name}`")
        return self._inputs[name]

    def _set(self, node: ir.Node, form: Form) -> None:
        self._forms[node.outputs[0]] = form

    def _form(self, value: ir.Value | None) -> Form | None:
        return None if value is None else self._forms.get(value)

    def _packed(self, node: ir.Node, position: int) -> Packed:
        """Operand `position` as a tensor of the engine, lowering what was waiting."""
        form = self._form(node.inputs[position])
        if isinstance(form, Packed):
            return form
        if isinstance(form, Pending):
            if form.index is None:
                form.index = self._write(form)
            return Packed(form.index, form.linear.shape[0])
        if isinstance(form, Sum):
            if form.index is None:
                pair = [form.left.index, form.right.index]
                form.index = self.net.one("BinaryOp", pair, form.name, *tables.binary("ADD"), layout="NC4HW4")
            return Packed(form.index, form.left.width)
        name = getattr(node.inputs[position], "name", None)
        self._refuse(node, f"its operand `{name}` is not a hidden state")

    def _write(self, pending: Pending) -> int:
        """Stream the weight into the weight file and add the op that reads it."""
        linear, (rows, columns) = pending.linear, pending.linear.shape[:2]
        if linear.quant is not None:
            blob = blobs.write_quantized(self.file, linear.quant, pending.bias)
        else:
            blob = blobs.write_float(self.file, linear.weight(), pending.bias)
        check_format(linear.name, blob.describe())
        self.blobs[linear.name], self.linears[linear.name] = blob, linear
        table = tables.convolution(blob, columns, rows)
        return self.net.one("Convolution", [pending.x.index], linear.name, *table, layout="NHWC")

    def _refuse(self, node: ir.Node, why: str) -> NoReturn:
        fail(
            "E0703",
            f"MNN's LLM engine cannot run `{node.name}` ({node.op_type}) of `{self.module.name}`: {why}",
            help="leave this node as the loader made it, or deploy the model `as ort`",
        )


_LAST = (("end", _ALL), ("axis", 0), ("step", 1))


def _number(node: ir.Node, name: str) -> float:
    attribute = node.attributes.get(name)
    return 0.0 if attribute is None else float(attribute.value)


def _rope(query: Heads, key: Heads) -> dict[str, object]:
    fields: dict[str, object] = {
        "rope_cut_head_dim": query.dim,
        "num_head": query.heads,
        "kv_num_head": key.heads,
        "head_dim": query.dim,
    }
    for name, heads in (("q_norm", query), ("k_norm", key)):
        if heads.norm is not None:
            fields[name] = tables.norm(heads.norm.gain, heads.norm.epsilon)[1]
    return fields
