"""The weights that can be compressed: linears, embeddings and convolutions, as every pass and emitter sees them.

    matmul   y[..,N] = x[..,K] @ W           W constant [K,N], or Transpose of a constant [N,K]
    gemm     y[M,N]  = x[M,K] @ W (+ b)      transB = 1: W is [N,K]
    gather   y[..,H] = W[ids[..], :]         an embedding [V,H], axis 0
    conv     y       = conv(x, W[O,I,*])
    own      an op of the domain `ai.edgec`, whose definition says what it multiplies by (`ops/`)

The constant may stand behind `DequantizeLinear`: then it is quantised,

    w[n, k] = (q[n, k] - zero_point[n, k // B]) * scale[n, k // B]         block B along the input axis K,
    w[n, :] = (q[n, :] - zero_point[n]) * scale[n]                         or per channel (block None)

or behind `ai.edgec::DequantizeBlocks`, whose blocks have a smallest value instead of a zero point:

    w[n, k] = q[n, k] * scale[n, k // B] + minimum[n, k // B]

`Linear.weight()` gives the float matrix as [N, K] rows in both cases, lazily.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from .annotations import FORMAT, Transform
from .domains import OWN_DOMAIN
from .module import Module, constant
from .weight_format import WeightFormat
from .weights import Weight, derive, transpose

DEQUANTIZE_BLOCKS = "DequantizeBlocks"
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)  # what is quantised and computed in
Kind = Literal["matmul", "gemm", "gather", "conv", "own"]  # own: an op of `ai.edgec`, as its definition says


@dataclass(frozen=True)
class QuantizedWeight:
    """Integers with their scales, oriented like the stored tensor; `axis` is the axis blocks run along."""

    node: ir.Node  # the DequantizeLinear or DequantizeBlocks
    q: Weight
    scale: Weight
    zero_point: Weight | None
    block: int | None  # None: one scale per channel
    axis: int
    minimum: Weight | None = None  # floats in place of zero points

    @property
    def bits(self) -> int:
        """Bits of the ONNX type that holds the integers; `format.bits` says how many they need."""
        return self.q.dtype.bitwidth

    @property
    def symmetric(self) -> bool:
        """Whether blocks have neither a zero point nor a minimum: integers stand around zero."""
        return self.zero_point is None and self.minimum is None

    @property
    def format(self) -> WeightFormat:
        """The format that a pass made the weight in; for a weight that was loaded so, what its tensors show."""
        made = FORMAT.get(self.q)
        signed = self.q.dtype.is_signed()
        return made or WeightFormat(self.bits, self.block, self.symmetric, method="", signed=signed)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of the dequantised tensor, float32, whatever axis its blocks or channels lie along."""
        axis, dims = self.axis % len(self.q.dims), self.q.dims
        along_rows = axis == 0 if self.block is None else axis == 1 == len(dims) - 1 and not dims[1] % self.block
        if self.minimum is not None or (
            along_rows and self.scale.size > 1
        ):  # as edgec writes them: nothing is spread out
            return dequantised(self.q, self.scale, self.zero_point, self.block, start, stop, self.minimum)
        made = self.q.rows(start, stop).astype(np.float32)
        if self.zero_point is not None:
            made = made - self._spread(self.zero_point, axis, start, stop)
        return made * self._spread(self.scale, axis, start, stop)

    def _spread(self, part: Weight, axis: int, start: int, stop: int) -> np.ndarray:
        """The scales or zero points of these rows, float32, in a form that broadcasts against them."""
        dims = self.q.dims
        if part.size == 1:
            return part.numpy().astype(np.float32).reshape(-1)[:1]
        if self.block is None:
            held = part.rows(start, stop) if axis == 0 else part.numpy()
            return held.astype(np.float32).reshape([-1 if place == axis else 1 for place in range(len(dims))])
        first, last = (start // self.block, -(-stop // self.block)) if axis == 0 else (start, stop)
        held = np.repeat(part.rows(first, last).astype(np.float32), self.block, axis=axis)
        begin = start - first * self.block if axis == 0 else 0
        ends = slice(begin, begin + (stop - start if axis == 0 else dims[axis]))
        return held[tuple(ends if place == axis else slice(None) for place in range(len(dims)))]


def dequantised(
    q: Weight,
    scale: Weight,
    zero_point: Weight | None,
    block: int | None,
    start: int,
    stop: int,
    minimum: Weight | None = None,
) -> np.ndarray:
    """Rows [start, stop) of (q - zero_point) * scale + minimum, float32."""
    made = q.rows(start, stop).astype(np.float32)
    groups = made.reshape(len(made), 1, -1) if block is None else made.reshape(len(made), -1, block)
    shape = (*groups.shape[:2], 1)
    if zero_point is not None:
        groups = groups - zero_point.rows(start, stop).astype(np.float32).reshape(shape)
    values = groups * scale.rows(start, stop).astype(np.float32).reshape(shape)
    if minimum is not None:
        values = values + minimum.rows(start, stop).astype(np.float32).reshape(shape)
    return values.reshape(made.shape)


@dataclass(frozen=True)
class Linear:
    """One use of a weight. `stored` is the float constant ([N,K] or [K,N]), None when it is quantised."""

    name: str
    kind: Kind
    node: ir.Node
    value: ir.Value  # what holds the constant: an initializer, or the output of its DequantizeLinear
    rows_are_outputs: bool  # stored as [N, K]; False: [K, N]
    stored: Weight | None
    quant: QuantizedWeight | None
    bias: ir.Value | None  # Gemm's third input or Conv's; a separate Add is an op of its own

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, K): outputs, inputs; an embedding (V, H); a convolution (O, I, *kernel)."""
        dims = self.stored.dims if self.stored is not None else self._quant().q.dims
        return dims if self.rows_are_outputs else (dims[1], dims[0])

    def stored_bytes(self, floats: float) -> float:
        """Bytes of the weight in a file: integers with 16-bit scales, or floats of so many bytes."""
        if self.quant is None:
            return math.prod(self.shape) * floats
        outputs, *inputs = self.shape
        return self.quant.format.size(outputs, math.prod(inputs)) / 8

    @property
    def initializer(self) -> ir.Value:
        """The initializer the bytes lie in: two linears with the same one are tied."""
        value = self.value if self.quant is None or self.kind == "own" else self.quant.node.inputs[0]
        if value is None:
            raise ValueError(f"linear `{self.name}` has no weight")
        return value

    def weight(self) -> Weight:
        """The float32 matrix [N, K] (dequantised if need be), lazily by rows."""
        if self.stored is not None:
            return self.stored if self.rows_are_outputs else transpose(self.stored)
        quant = self._quant()
        made = derive(
            f"{self.name}.weight",
            ir.DataType.FLOAT,
            quant.q.dims,
            quant.rows,
            quant.q,
            Transform.DEQUANTISE,
            "dequantised",
        )
        return made if self.rows_are_outputs else transpose(made)

    def _quant(self) -> QuantizedWeight:
        if self.quant is None:
            raise ValueError(f"linear `{self.name}` is not quantised")
        return self.quant


def linears(module: Module, graph: ir.Graph | None = None) -> Iterator[Linear]:
    """Every linear of the module's first graph (they share weights), or of `graph`, in topological order."""
    graph = graph if graph is not None else next(iter(module.graphs.values())).graph
    for node in list(graph):
        found = as_linear(node)
        if found is not None:
            yield found


def float_shapes(module: Module) -> dict[str, tuple[int, int]]:
    """Name -> (N, K) of every linear and embedding whose weight is float."""
    found = (linear for linear in linears(module) if linear.kind not in ("conv", "own"))
    return {x.name: (x.shape[0], x.shape[1]) for x in found if x.stored is not None and x.stored.dtype in FLOATS}


def as_linear(node: ir.Node) -> Linear | None:
    """`node` as a linear, if it is one with a constant weight of rank 2 (Conv: 3 or more), or an own op with one."""
    if node.domain not in ("", "ai.onnx"):
        return _own(node)
    if node.op_type == "MatMul":
        return _matmul(node)
    if node.op_type == "Gemm" and _attr(node, "transA", 0) == 0 and _attr(node, "alpha", 1.0) == 1.0:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return _make(node, "gemm", node.inputs[1], bool(_attr(node, "transB", 0)), bias)
    if node.op_type == "Gather" and _attr(node, "axis", 0) == 0:
        return _make(node, "gather", node.inputs[0], True, None)
    if node.op_type == "Conv":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return _make(node, "conv", node.inputs[1], True, bias)
    return None


def _own(node: ir.Node) -> Linear | None:
    from .ops.find_op import definition_of

    definition = definition_of(node)
    return None if definition is None else definition.as_weight_use(node)


def _matmul(node: ir.Node) -> Linear | None:
    value = node.inputs[1]
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "Transpose":
        perm = producer.attributes.get("perm")
        if perm is not None and list(perm.as_ints()) != [1, 0]:
            return None
        return _make(node, "matmul", producer.inputs[0], True, None)
    return _make(node, "matmul", value, False, None)


def _make(
    node: ir.Node, kind: Kind, value: ir.Value | None, rows_are_outputs: bool, bias: ir.Value | None
) -> Linear | None:
    if value is None:
        return None
    name = node.name or ""
    stored = constant(value)
    if stored is not None:
        fits = stored.dtype.is_floating_point() and (len(stored.dims) > 2 if kind == "conv" else len(stored.dims) == 2)
        return Linear(name, kind, node, value, rows_are_outputs, stored, None, bias) if fits else None
    quant = as_quantized(value.producer())
    if quant is None:
        return None
    return Linear(name, kind, node, value, rows_are_outputs, None, quant, bias)


def is_dequantize_blocks(node: ir.Node) -> bool:
    """Whether `node` is an `ai.edgec::DequantizeBlocks` (`ops/dequantize_blocks.py`)."""
    return node.domain == OWN_DOMAIN and node.op_type == DEQUANTIZE_BLOCKS


def as_quantized(node: ir.Node | None) -> QuantizedWeight | None:
    """A DequantizeLinear or DequantizeBlocks over constants, as integers and scales."""
    if node is None or (node.op_type != "DequantizeLinear" and not is_dequantize_blocks(node)):
        return None
    q, scale = constant(node.inputs[0]), constant(node.inputs[1])
    if q is None or scale is None:
        return None
    if is_dequantize_blocks(node):
        block = int(_attr(node, "block_size", 0))
        return QuantizedWeight(node, q, scale, None, block, 1, constant(node.inputs[2]))
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    block = int(_attr(node, "block_size", 0)) or None
    return QuantizedWeight(node, q, scale, zero, block, int(_attr(node, "axis", 1)))


def _attr(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value
