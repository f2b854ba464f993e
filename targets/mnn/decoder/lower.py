"""The semantic graph of a decoder, node by node, as the fused ops of MNN's LLM engine.

    MNN holds the S new positions as [S, width, 1, 1], packed by four channels.

    Gather                                       the engine looks embeddings up itself: a graph input
    MatMul (+ Add of a constant)                 Convolution 1x1, bias included
    Add, then RMSNormalization                   LayerNorm with two inputs: the sum and its norm
    Reshape, (norm,) Transpose, RotaryEmbedding  RoPE for q and k at once, their norms included
    Attention, Transpose, Reshape                Attention, which keeps K and V itself
    Slice of a linear                            StridedSlice of its columns
    Swish, Mul                                   BinaryOp MUL_SILU

Each node of the graph is visited once and must find its operands in a form it knows; a node that does not fit (a
user's pass may have rewritten anything) is an error that names it. Forms that MNN has no op for wait, unlowered, for
the node that completes them (`lowered_values.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import PlanError, fail
from ....compiler.emit.refusals import Refusals, Refused, grouped
from ....compiler.ir import kv_names
from ....compiler.ir.linears import as_linear, as_quantized, is_dequantize_blocks
from ....compiler.ir.module import constant
from ....compiler.ir.weights import numbers
from ..file import op_parameters as tables
from .lower_attention import AttentionLowering
from .lowered_values import Angle, Gate, Heads, HiddenState, Normed, Pending, Positions, Rotary, Sum

_ALL = 1 << 30  # an end beyond every sequence
_LAST = (("end", _ALL), ("axis", 0), ("step", 1))


class DecoderLowering(AttentionLowering):
    """One pass over the graph. Afterwards `net` is complete, `blobs` says where each linear's weight is stored."""

    def run(self) -> None:
        """Lower the whole graph; PlanError with every node that has no place in MNN's decoder (E0703)."""
        self.visit()
        if self.refused:
            raise PlanError(*grouped(self.refused))

    def visit(self) -> None:
        """Nodes in order, then the outputs; afterwards `refused` is complete."""
        visit: dict[str, Callable[[ir.Node], None]] = {
            "Gather": self._gather,
            "MatMul": self._matmul,
            "Add": self._add,
            "Mul": self._mul,
            "Swish": self._swish,
            "Slice": self._slice,
            "RMSNormalization": self._norm,
            "Reshape": self._reshape,
            "Transpose": self._transpose,
            "RotaryEmbedding": self._rotary,
            "Attention": self._attention,
            "Cast": self._cast,
            "Unsqueeze": self._unsqueeze,
            "Cos": self._turn,
            "Sin": self._turn,
            "DequantizeBlocks": self._dequantize,
            "DequantizeLinear": self._dequantize,
        }
        graph, refusals = self.module.main.graph, Refusals()
        for node in graph:
            if node.op_type == "Constant":
                continue
            try:
                known = node.domain in ("", "ai.onnx") or is_dequantize_blocks(node)
                if not known or node.op_type not in visit:
                    self._refuse(node, "MNN's LLM engine has no op for it in a decoder", alone=True)
                visit[node.op_type](node)
            except Refused as problem:
                refusals.add(node, problem.refusal)
                self._set(node, self._stand_in(node))
        self.refused = refusals.found
        if self.refused:
            return
        try:
            self._outputs(graph)
        except Refused as problem:
            self.refused.append(problem.refusal)

    @staticmethod
    def _stand_in(node: ir.Node) -> HiddenState:
        """A hidden state in the place of what a refused node would have made, for the nodes behind it."""
        shape = node.outputs[0].shape
        width = shape[-1] if shape is not None and len(shape) else 1
        return HiddenState(0, width if isinstance(width, int) else 1)

    # --- what runs on the hidden state -----------------------------------------------------------------------

    def _gather(self, node: ir.Node) -> None:
        linear = as_linear(node)
        if linear is None or node.inputs[1] is not self._input("input_ids") or self.embedding is not None:
            self._refuse(node, "only the embedding of `input_ids` can be looked up")
        self.embedding = linear
        x = self.net.one("Reshape", [self._hidden], "hidden.rows", *tables.reshape([-1, self.arch.hidden, 1, 1]))
        x = self.net.one("ConvertTensor", [x], "hidden", *tables.layout("NCHW", "NC4HW4"))
        self._set(node, HiddenState(x, self.arch.hidden))

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
            self._set(node, Pending(left.x, left.linear, numbers(bias).astype(np.float32)))
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
                self._set(node, HiddenState(made, gate.x.width))
                return
            factor = constant(node.inputs[b])
            if isinstance(angle, Angle | Positions | Rotary) and factor is not None:
                self._scale(node, angle, numbers(factor).astype(np.float32))
                return
        self._refuse(node, "it multiplies neither a gate and a projection nor the rotary angles and a constant")

    def _slice(self, node: ir.Node) -> None:
        """Columns of a linear's result, where several linears are one."""
        bounds = [constant(value) for value in node.inputs[1:]]
        if not isinstance(self._form(node.inputs[0]), Pending) or len(bounds) != 3 or None in bounds:
            self._refuse(node, "it cuts what is no linear's result, or at bounds that are not constant")
        start, stop, axis = (int(numbers(bound).item()) for bound in bounds if bound is not None)
        x = self._packed(node, 0)
        if axis != 2 or not 0 <= start < stop <= x.width:
            self._refuse(node, "it cuts another axis than the linear's outputs")
        name, ends = node.name or "slice", (("start", start), ("end", stop), ("axis", 1), ("step", 1))
        held = [self.net.const(f"{name}.{key}", np.array([value], np.int32)) for key, value in ends]
        kind = ("StridedSliceParam", {"fromType": 1})
        made = self.net.one("StridedSlice", [x.index, *held], name, *kind, layout="NC4HW4")
        self._set(node, HiddenState(made, stop - start))

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
        gain = numbers(gamma).astype(np.float32).reshape(-1)
        name = node.name or "norm"
        if isinstance(x, Heads) and x.stage == "split" and x.norm is None and gain.size == x.dim:
            self._set(node, x.with_norm(Normed(gain, epsilon)))
            return
        table = tables.norm(gain, epsilon)
        if isinstance(x, Sum) and x.index is None:
            pair = [x.left.index, x.right.index]
            x.index, made = self.net.add("LayerNorm", pair, [x.name, name], table, "NC4HW4")
            self._set(node, HiddenState(made, x.left.width))
            return
        packed = self._packed(node, 0)
        if gain.size != packed.width:
            self._refuse(node, f"its gain has {gain.size} values for a width of {packed.width}")
        self._set(
            node, HiddenState(self.net.one("LayerNorm", [packed.index], name, *table, layout="NC4HW4"), packed.width)
        )

    def _dequantize(self, node: ir.Node) -> None:
        if as_quantized(node) is None:
            self._refuse(node, "MNN takes quantised weights, not quantised activations")

    def _outputs(self, graph: ir.Graph) -> None:
        """`logits` is the head's; everything else handed out is a cache, which `_cache` has seen."""
        caches = {name for layer in range(self.arch.layers) for name in kv_names.pair(layer, kv_names.OUT)}
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
        x = self._write(Pending(HiddenState(kept, head.x.width), head.linear, head.bias))
        x = self.net.one("ConvertTensor", [x], "logits.plain", *tables.layout("NC4HW4", "NCHW"))
        self.net.one("Reshape", [x], "logits", *tables.reshape([1, -1, head.linear.shape[0]]))
