"""Quantised weights as ONNX Runtime's own ops; everything else stays standard ONNX.

    MatMul(x, Transpose(DequantizeLinear(q, s)))   ->  MatMulNBits(x, packed q, s[, zero points])
    MatMul(x, Transpose(DequantizeBlocks(q, s, m)))   the same, with float zero points -m / s
    Gemm(x, DequantizeLinear(q, s), b)             ->  MatMulNBits, then Add b
    Gather(DequantizeLinear(q, s), ids)            ->  GatherBlockQuantized(packed q, ids, s[, zero points])

Scales are stored as float16 where that loses nothing, and read through a Cast: both ops compute in the type of their
scales. Not with `int8`: without graph optimisation that kernel gives wrong numbers for scales that are no constants.
A head tied to its embedding shares the bytes: both layouts are the same but for the shape they are seen in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from ...compiler.ir.annotations import SAME_BYTES
from ...compiler.ir.clone import clone_model
from ...compiler.ir.linears import Linear, is_dequantize_blocks, linears
from ...compiler.ir.module import Module, drop_unread_nodes, drop_unused_initializers, initializer
from ...compiler.ir.ops.dequantised_product import multiply_dequantised
from ...compiler.ir.weights import Weight
from . import pack
from .lookup import is_prompt

DOMAIN = "com.microsoft"
_INT8 = 4  # MatMulNBits' accuracy_level


@dataclass
class PackedWeight:
    """The tensors of one quantised weight in ONNX Runtime's layout; made once for all graphs that refer to it."""

    name: str
    q: Weight
    flat: Weight
    scale: Weight
    zero_point: Weight | None

    @property
    def nbytes(self) -> int:
        """Bytes of integers, scales and zero points."""
        return self.q.nbytes + self.scale.nbytes + (0 if self.zero_point is None else self.zero_point.nbytes)


@dataclass
class OrtLowering:
    """What was rewritten (op -> its linear before), and what was left standard and why."""

    module: Module
    int8: bool = False  # let the kernel round activations to int8
    packed: dict[int, PackedWeight] = field(default_factory=dict)  # id of the quantised weight -> its layout
    lowered: dict[str, Linear] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def run(self, model: ir.Model) -> ir.Model:
        """A rewritten copy of `model`."""
        made = clone_model(model)
        graph = made.graph
        for linear in list(linears(self.module, graph)):
            if linear.kind == "own" and is_prompt(linear.node):
                multiply_dequantised(made, linear.node)
            if linear.quant is None or linear.kind == "own":  # an own op brings its body
                continue
            reason = self.refusal(linear)
            if reason is not None:
                self.left[linear.name] = reason
                continue
            self._replace(graph, linear)
            self.lowered.setdefault(linear.name, linear)
        drop_unread_nodes(graph, _makes_weights)
        drop_unused_initializers(graph)
        if any(node.domain == DOMAIN for node in graph):
            graph.opset_imports[DOMAIN] = 1
        return made

    @staticmethod
    def refusal(linear: Linear) -> str | None:
        """Why a linear keeps standard ops; None: it is packed."""
        if linear.quant is None:
            return "it is not quantised"
        if linear.kind == "conv":
            return "a convolution has no op of this kind"
        if not linear.rows_are_outputs:
            return "its integers lie as [K, N]"
        if linear.kind == "gemm" and linear.node.attributes.get_float("beta", 1.0) != 1.0:
            return "its Gemm scales the bias"
        if linear.kind == "gather" and linear.quant.minimum is not None:
            return "a lookup takes no float minimum per block"
        if linear.kind == "gather" and linear.shape[1] % pack.stored_block(linear.quant):
            return f"no block of 16 or more divides its rows of {linear.shape[1]}"
        return pack.is_packable(linear.quant)

    def _replace(self, graph: ir.Graph, linear: Linear) -> None:
        held = self._packed(linear)
        node = linear.node
        made = self._gather(graph, linear, held) if linear.kind == "gather" else self._matmul(graph, linear, held)
        made.metadata_props.update(node.metadata_props)
        graph.insert_before(node, made)
        old, new = node.outputs[0], made.outputs[0]
        new.shape, new.type, name = old.shape, old.type, old.name
        if linear.kind == "gemm" and linear.bias is not None:
            new.name = f"{name}.product"
            add = ir.node("Add", [new, linear.bias], name=f"{linear.name}.bias_add")
            graph.insert_before(node, add)
            new = add.outputs[0]
            new.shape, new.type = old.shape, old.type
        old.name, new.name = f"{name}.replaced", name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        made.name = linear.name

    def _packed(self, linear: Linear) -> PackedWeight:
        quant = linear.quant
        if quant is None:
            raise ValueError(f"linear `{linear.name}` is not quantised")
        if id(quant.q) not in self.packed:
            name, half = f"{linear.name}.weight", not self.int8 and pack.scales_fit_half(quant)
            q, flat = pack.packed(name, quant), pack.packed(f"{name}.flat", quant, flat=True)
            SAME_BYTES.set(flat, q)
            made = PackedWeight(name, q, flat, pack.scales(name, quant, half), pack.zero_points(name, quant))
            self.packed[id(quant.q)] = made
        return self.packed[id(quant.q)]

    def _matmul(self, graph: ir.Graph, linear: Linear, held: PackedWeight) -> ir.Node:
        n, k = linear.shape
        attributes = {"K": k, "N": n, **_layout(linear)}
        if self.int8:
            attributes["accuracy_level"] = _INT8
        inputs = [linear.node.inputs[0], _held(graph, held.q), *_scales(graph, held)]
        return ir.node("MatMulNBits", inputs, attributes, domain=DOMAIN)

    def _gather(self, graph: ir.Graph, linear: Linear, held: PackedWeight) -> ir.Node:
        attributes = {"gather_axis": 0, "quantize_axis": 1, **_layout(linear)}
        inputs = [_held(graph, held.flat), linear.node.inputs[1], *_scales(graph, held)]
        return ir.node("GatherBlockQuantized", inputs, attributes, domain=DOMAIN)


def _layout(linear: Linear) -> dict[str, int]:
    if linear.quant is None:
        raise ValueError(f"linear `{linear.name}` is not quantised")
    return {"bits": pack.stored_bits(linear.quant), "block_size": pack.stored_block(linear.quant)}


def _held(graph: ir.Graph, weight: Weight) -> ir.Value:
    return initializer(graph, weight.name, weight)


def _scales(graph: ir.Graph, held: PackedWeight) -> list[ir.Value]:
    scale = _held(graph, held.scale)
    if held.scale.dtype == ir.DataType.FLOAT16:
        scale = as_float32(graph, scale)
    return [scale] if held.zero_point is None else [scale, _held(graph, held.zero_point)]


def as_float32(graph: ir.Graph, half: ir.Value) -> ir.Value:
    """The initializer `half` cast to float32, once for all its readers; ONNX Runtime does it while it loads."""
    for use in half.uses():
        if use.node.op_type == "Cast":
            return use.node.outputs[0]
    cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=f"{half.name}.cast")
    made = cast.outputs[0]
    made.name, made.type, made.shape = f"{half.name}.float32", ir.TensorType(ir.DataType.FLOAT), half.shape
    graph.insert_before(next(iter(graph)), cast)
    return made


def _makes_weights(node: ir.Node) -> bool:
    """Whether the op is of those that led to a rewritten one: a transpose or a dequantised weight."""
    return node.op_type in ("Transpose", "DequantizeLinear") or is_dequantize_blocks(node)
