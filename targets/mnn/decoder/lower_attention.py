"""Attention's part of the lowering: heads, rotary angles, the attention itself and its cache."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ....compiler.ir import kv_names
from ....compiler.ir.linears import as_quantized
from ....compiler.ir.module import constant
from ..file import op_parameters as tables
from .lower_state import LoweringState, number
from .lowered_values import Angle, Attended, Heads, HiddenState, Pending, Positions, Rotary


class AttentionLowering(LoweringState):
    """The ops around an attention."""

    def _reshape(self, node: ir.Node) -> None:
        x, shape = self._form(node.inputs[0]), constant(node.inputs[1])
        dims = None if shape is None else [int(d) for d in shape.numpy()]
        if isinstance(x, Attended) and x.swapped and dims == [0, 0, x.heads * x.dim]:
            self._set(node, HiddenState(x.index, x.heads * x.dim))
            return
        if dims is not None and len(dims) == 4 and dims[:2] == [0, 0] and isinstance(x, Pending | HiddenState):
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
        if len(node.inputs) > 3 or any(number(node, key) for key in ("interleaved", "rotary_embedding_dim")):
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
        if any(number(node, key_) for key_ in ("is_causal", "softcap", "q_num_heads", "kv_num_heads")):
            self._refuse(node, "MNN's Attention has none of `is_causal`, `softcap`, `q_num_heads`")
        layer = self._cache(node)
        scale = number(node, "scale") or query.dim**-0.5
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
        read = kv_names.parse(getattr(node.inputs[4], "name", None))
        layer = -1 if read is None else read.layer
        wanted = [self._inputs.get(name) for name in kv_names.pair(layer, kv_names.IN)]
        kept = tuple(getattr(value, "name", None) for value in node.inputs[1:3])
        masked = node.inputs[3] is self._input("attention_mask")
        if read is None or list(node.inputs[4:6]) != wanted or not masked:
            self._refuse(node, "it does not read `attention_mask` and one layer's past K and V as they are")
        if kept != kv_names.pair(layer, kv_names.OUT) or any(
            node.outputs[i].uses() for i in range(1, len(node.outputs))
        ):
            self._refuse(node, "the K and V it reads are not those the graph hands out")
        return layer

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
            self._refuse(node, "Cos and Sin are known on rotary angles only")
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
