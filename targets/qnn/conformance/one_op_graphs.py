"""Small static-level graphs of one op each, with random values that fp16 holds: what the conformance grid runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ....compiler.ir import kv_names
from ....compiler.ir.annotations import FORMAT
from ....compiler.ir.weight_format import WeightFormat
from ....compiler.ir.weights import Weight, from_array
from ..lower.builder import CONTRIB

PAST_KEY, PAST_VALUE = kv_names.pair(0, kv_names.IN)
FEW_TOKENS = (1, 4, 16, 128)
_F32 = ir.DataType.FLOAT
GraphAndFeeds = tuple[ir.Model, dict[str, np.ndarray]]  # a graph and its feeds


class Sketch:
    """A one-op graph in the making: inputs with random values that fp16 holds, constants, nodes."""

    def __init__(self, dtype: ir.DataType = _F32) -> None:
        self.rng, self.dtype = np.random.default_rng(7), dtype
        self.feeds: dict[str, np.ndarray] = {}
        self.inputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def input(self, name: str, *shape: int, values: np.ndarray | None = None) -> ir.Value:
        """A graph input and its feed: `values`, or normally distributed ones, rounded to fp16."""
        if values is None:
            values = self.rng.standard_normal(shape)
        if values.dtype.kind == "f":
            values = values.astype(np.float16).astype(self.dtype.numpy())
        self.feeds[name] = values
        dtype = ir.DataType.from_numpy(values.dtype)
        self.inputs.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(values.shape)))
        return self.inputs[-1]

    def const(self, name: str, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        """A constant; `dtype` gives a narrow integer type that numpy lacks."""
        if dtype is not None:  # int4 and friends
            array = array.astype(dtype.numpy())
        weight: Weight = from_array(name, array)
        self.initializers.append(
            ir.Value(name=name, type=ir.TensorType(weight.dtype), shape=ir.Shape(weight.dims), const_value=weight)
        )
        return self.initializers[-1]

    def op(
        self,
        kind: str,
        *inputs: ir.Value | None,
        shape: Sequence[int],
        name: str = "op",
        outputs: int = 1,
        **attrs: Any,
    ) -> ir.Value:
        """A node with one output of `shape` (and `outputs` - 1 more); its first output is returned."""
        domain = attrs.pop("domain", "")
        made = [ir.Value(name=f"{name}.{i}", type=ir.TensorType(self.dtype)) for i in range(outputs)]
        made[0].shape = ir.Shape(shape)
        attributes = ir.convenience.convert_attributes(attrs)
        self.nodes.append(ir.Node(domain, kind, inputs, attributes, outputs=made, name=name))
        return made[0]

    def done(self, *outputs: ir.Value) -> GraphAndFeeds:
        """The model with these outputs, and the feeds."""
        for index, value in enumerate(outputs):
            value.name = value.name if kv_names.is_cache(value.name) else f"y{index}"
        graph = ir.Graph(
            self.inputs, list(outputs), nodes=self.nodes, initializers=self.initializers,
            opset_imports={"": 24 if self.dtype == _F32 else 23, CONTRIB: 1}, name="case",
        )  # fmt: skip
        return ir.Model(graph, ir_version=11), self.feeds


def nbits(tokens: int, k: int, n: int, bits: int, block: int | str, symmetric: bool) -> GraphAndFeeds:
    """A quantised linear in the form the quantize pass leaves; block "channel": one scale per output.

    Symmetric scales of two and four bits are of both signs, as the clip search makes them
    (passes/solve/integer_grid.py).
    """
    g = Sketch()
    format_ = WeightFormat(bits, None if block == "channel" else int(block), symmetric)
    dtype = format_.dtype
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if symmetric else (0, (1 << bits) - 1)
    q = g.const("op.weight", g.rng.integers(low, high + 1, (n, k), np.int16), dtype)
    grain = (n,) if block == "channel" else (n, k // int(block))
    scale = (g.rng.uniform(0.5, 1.5, grain) / (high - low) / math.sqrt(k) * 4).astype(np.float16)
    if q.const_value is not None:
        FORMAT.set(q.const_value, format_)
    if symmetric and bits < 8:
        scale *= g.rng.choice(np.array((-1, 1), np.float16), grain)
    inputs = [q, g.const("op.weight_scale", scale.astype(np.float32))]
    if not symmetric:
        inputs.append(g.const("op.weight_zero", g.rng.integers(low, high + 1, grain), dtype))
    attrs = {"axis": 0} if block == "channel" else {"axis": 1, "block_size": int(block)}
    w = g.op("DequantizeLinear", *inputs, shape=(n, k), name="op.dequant", **attrs)
    turned = g.op("Transpose", w, shape=(k, n), name="op.transpose", perm=[1, 0])
    return g.done(g.op("MatMul", g.input("x", 1, tokens, k), turned, shape=(1, tokens, n)))


def matmul(tokens: int, k: int, n: int) -> GraphAndFeeds:
    """A float linear, x [1, tokens, k] and weight [n, k], as the decoder's graph has it."""
    g = Sketch()
    w = g.const("op.weight", g.rng.standard_normal((n, k), np.float32) / np.float32(math.sqrt(k)))
    turned = g.op("Transpose", w, shape=(k, n), name="op.transpose", perm=[1, 0])
    return g.done(g.op("MatMul", g.input("x", 1, tokens, k), turned, shape=(1, tokens, n)))


def norm(kind: str, heads: int, rows: int, size: int, epsilon: float = 1e-6) -> GraphAndFeeds:
    """`heads` > 1: over the last axis of [1,S,heads,size], as q and k norms are."""
    g = Sketch()
    shape = (1, rows // heads, heads, size) if heads > 1 else (1, rows, size)
    gains = [g.const("gain", g.rng.uniform(0.5, 1.5, size).astype(np.float32))]
    if kind == "LayerNormalization":
        gains.append(g.const("shift", g.rng.standard_normal(size).astype(np.float32)))
    return g.done(g.op(kind, g.input("x", *shape), *gains, shape=shape, axis=-1, epsilon=epsilon))


def rotary(tokens: int, heads: int, head_dim: int, turned: bool) -> GraphAndFeeds:
    """RotaryEmbedding of x [1, heads, tokens, head_dim]; `turned`: of all channels, else of the first half."""
    g = Sketch()
    half = head_dim // 2 if turned else head_dim // 4
    angle = np.outer(np.arange(tokens) + 3, 10000.0 ** (-np.arange(half) / half))[None]
    x = g.input("x", 1, heads, tokens, head_dim)
    cos, sin = g.input("cos", values=np.cos(angle)), g.input("sin", values=np.sin(angle))
    attrs: dict[str, Any] = {} if turned else {"rotary_embedding_dim": 2 * half, "num_heads": heads}
    return g.done(g.op("RotaryEmbedding", x, cos, sin, shape=(1, heads, tokens, head_dim), **attrs))


def attention(
    tokens: int, context: int, heads: int, kv_heads: int, head_dim: int, cache: bool, mask: bool
) -> GraphAndFeeds:
    """Half of the cache is filled; the rest is masked and holds large values, as uninitialised memory would."""
    g = Sketch()
    past = context - tokens
    q, k, v = (
        g.input(name, 1, n, tokens, head_dim) for name, n in zip("qkv", (heads, kv_heads, kv_heads), strict=True)
    )
    inputs: list[ir.Value | None] = [q, k, v, None]
    if mask:
        allowed = np.concatenate(
            [np.broadcast_to(np.arange(past) < past // 2, (tokens, past)), np.tri(tokens, dtype=bool)], axis=1
        )
        inputs[3] = g.input("attention_mask", values=np.where(allowed, 0.0, -1000.0)[None, None])
    if cache:
        for name in (PAST_KEY, PAST_VALUE):
            values = g.rng.standard_normal((1, kv_heads, past, head_dim))
            values[:, :, past // 2 :] = 30.0 if name == PAST_KEY else 2.0
            inputs.append(g.input(name, values=values))
    y = g.op("Attention", *inputs, shape=(1, heads, tokens, head_dim), outputs=3 if cache else 1, scale=head_dim**-0.5)
    return g.done(y)


def swish(rank: int, elements: int) -> GraphAndFeeds:
    """Swish of a tensor of that rank."""
    g = Sketch()
    shape = spread(rank, elements)
    return g.done(g.op("Swish", g.input("x", *shape), shape=shape))


def embedding(tokens: int, vocab: int, size: int) -> GraphAndFeeds:
    """Gather of `tokens` rows of a float table [vocab, size]."""
    g = Sketch()
    table = g.const("op.weight", g.rng.standard_normal((vocab, size)).astype(np.float16).astype(np.float32))
    ids = g.input("ids", values=g.rng.integers(0, vocab, (1, tokens)).astype(np.int32))
    return g.done(g.op("Gather", table, ids, shape=(1, tokens, size), axis=0))


def softmax(rank: int, rows: int, size: int) -> GraphAndFeeds:
    """Softmax over the last axis, of `size`."""
    g = Sketch()
    shape = (*spread(rank - 1, rows), size)
    return g.done(g.op("Softmax", g.input("x", *shape), shape=shape, axis=-1))


def unary(kind: str, rank: int, elements: int, **attributes: Any) -> GraphAndFeeds:
    """An elementwise op of one operand; Sqrt gets positive values."""
    g = Sketch()
    shape = spread(rank, elements)
    x = g.input("x", values=np.abs(g.rng.standard_normal(shape)) + 0.1) if kind == "Sqrt" else g.input("x", *shape)
    return g.done(g.op(kind, x, shape=shape, **attributes))


def binary(kind: str, rank: int, elements: int) -> GraphAndFeeds:
    """An elementwise op of two operands of one shape; Div gets a second operand far from 0."""
    g = Sketch()
    shape = spread(rank, elements)
    b = g.input("b", values=np.abs(g.rng.standard_normal(shape)) + 0.5) if kind == "Div" else g.input("b", *shape)
    return g.done(g.op(kind, g.input("a", *shape), b, shape=shape))


def product(rank: int, m: int, k: int, n: int) -> GraphAndFeeds:
    """MatMul of two activations, [.., m, k] and [.., k, n]."""
    g = Sketch()
    lead = (1, 2)[4 - rank :]
    return g.done(g.op("MatMul", g.input("a", *lead, m, k), g.input("b", *lead, k, n), shape=(*lead, m, n)))


def conv(
    channels: int,
    inputs: int,
    size: int,
    kernel: tuple[int, int],
    stride: int,
    pads: tuple[int, int, int, int],
    dilation: int = 1,
    groups: int = 1,
) -> GraphAndFeeds:
    """A convolution whose output is [1, channels, size, size]."""
    g = Sketch()
    per = inputs // groups
    w = g.rng.standard_normal((channels, per, *kernel)) / math.sqrt(math.prod(kernel) * per)
    bias = g.const("bias", g.rng.standard_normal(channels).astype(np.float32))
    x = g.input("x", 1, inputs, *_inside(size, kernel, stride, pads, dilation))
    return g.done(
        g.op("Conv", x, g.const("w", w.astype(np.float32)), bias, shape=(1, channels, size, size),
             kernel_shape=kernel, pads=pads, group=groups, strides=[stride] * 2, dilations=[dilation] * 2)
    )  # fmt: skip


def _inside(
    size: int, kernel: tuple[int, int], stride: int, pads: tuple[int, int, int, int], dilation: int, ceil: bool = False
) -> list[int]:
    """Input sizes for an output of `size`: with something left over beyond the last window, or (`ceil`) short of it."""
    found = []
    for axis, k in enumerate(kernel):
        exact = (size - 1) * stride + (k - 1) * dilation + 1 - pads[axis] - pads[axis + 2]
        found.append(exact - 1 if ceil else exact + (stride - 1 if k != stride else 0))
    return found


def pool(
    kind: str,
    channels: int,
    size: int,
    kernel: tuple[int, int],
    stride: int,
    pads: tuple[int, int, int, int],
    dilation: int = 1,
    ceil: bool = False,
    include: bool = False,
) -> GraphAndFeeds:
    """A pooling whose output is [1, channels, size, size], of values around 3: a border that counts shows."""
    g = Sketch()
    inside = _inside(size, kernel, stride, pads, dilation, ceil)
    x = g.input("x", values=g.rng.standard_normal((1, channels, *inside)) + 3)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": [stride] * 2, "pads": pads, "ceil_mode": int(ceil)}
    if dilation != 1:
        attributes["dilations"] = [dilation] * 2
    if include:
        attributes["count_include_pad"] = 1
    return g.done(g.op(kind, x, shape=(1, channels, size, size), **attributes))


def global_pool(channels: int, inside: int) -> GraphAndFeeds:
    """GlobalAveragePool of [1, channels, inside, inside], of values around 3."""
    g = Sketch()
    x = g.input("x", values=g.rng.standard_normal((1, channels, inside, inside)) + 3)
    return g.done(g.op("GlobalAveragePool", x, shape=(1, channels, 1, 1)))


def transpose(perm: str, elements: int) -> GraphAndFeeds:
    """Transpose by `perm`, written as digits ("0213")."""
    g = Sketch()
    axes = [int(axis) for axis in perm]
    shape = spread(len(axes), elements)
    return g.done(g.op("Transpose", g.input("x", *shape), shape=[shape[a] for a in axes], perm=axes))


def concat(rank: int, axis: int, elements: int) -> GraphAndFeeds:
    """Concat of two tensors of `elements` / 2 values each."""
    g = Sketch()
    shape = list(spread(rank, elements // 2))
    a, b = g.input("a", *shape), g.input("b", *shape)
    shape[axis] *= 2
    return g.done(g.op("Concat", a, b, shape=shape, axis=axis))


def slice_(rank: int, elements: int, axis: int = -1, step: int = 1) -> GraphAndFeeds:
    """The first half of an axis of twice `elements`, or every second of it."""
    g = Sketch()
    axis %= rank
    shape = list(spread(rank, elements))
    shape[axis] *= 2
    ends = (("s", 0), ("e", shape[axis] // 2 * step), ("ax", axis), ("st", step))[: 4 if step > 1 else 3]
    bounds = [g.const(name, np.array([value])) for name, value in ends]
    return g.done(g.op("Slice", g.input("x", *shape), *bounds, shape=spread(rank, elements)))


def clip(rank: int, elements: int) -> GraphAndFeeds:
    """Clip to -0.5 and 0.75."""
    g = Sketch()
    shape = spread(rank, elements)
    low, high = (g.const(name, np.array(v, np.float32)) for name, v in (("low", -0.5), ("high", 0.75)))
    return g.done(g.op("Clip", g.input("x", *shape), low, high, shape=shape))


def reduce_mean(rank: int, elements: int, keepdims: int = 1) -> GraphAndFeeds:
    """ReduceMean over the last axis."""
    g = Sketch()
    shape = spread(rank, elements)
    x, left = g.input("x", *shape), (*shape[:-1], 1) if keepdims else shape[:-1]
    return g.done(g.op("ReduceMean", x, g.const("axes", np.array([-1])), shape=left, keepdims=keepdims))


def reshape(rank: int) -> GraphAndFeeds:
    """Reshape of [1, 8, 512] to a tensor of that rank."""
    g = Sketch()
    shape = spread(rank, 4096)
    x = g.input("x", 1, 8, 512)
    return g.done(g.op("Reshape", x, g.const("to", np.array(shape)), shape=shape))


def spread(rank: int, elements: int) -> tuple[int, ...]:
    """A shape of that rank and size: 1s first, the last axis the largest power of two up to 512."""
    last = math.gcd(elements, 512) if rank > 1 else elements
    middle = elements // last
    if rank <= 2:
        return (elements,) if rank == 1 else (middle, last)
    head = math.gcd(middle, 4) if rank > 3 else 1
    return (*(1,) * (rank - 3), head, middle // head, last) if rank > 3 else (1, middle, last)
