"""The grid of the conformance table: for each lowering the emitter can choose, small graphs over shapes and formats.

A case is a *static level* graph, lowered by the very code that lowers models, or (`known_wrong`) a graph written for
the engine directly, to keep on record what HTP computes wrong or refuses and why a lowering looks as it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from ...compiler.weights import Weight, from_array
from .builder import CONTRIB

TOKENS = (1, 2, 3, 4, 5, 8, 16, 32, 64, 128)
FEW_TOKENS = (1, 4, 16, 128)
HEAD_DIMS = (32, 64, 80, 96, 128)
_F32, _F16, _I32 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT32


@dataclass(frozen=True)
class Case:
    """`make()` gives the graph and its feeds; `raw` graphs are compiled as they are."""

    lowering: str
    shape: tuple[tuple[str, int | str | bool], ...]
    make: Callable[[], tuple[ir.Model, dict[str, np.ndarray]]]
    raw: bool = False

    @property
    def name(self) -> str:
        return " ".join([self.lowering, *(f"{key}={value}" for key, value in self.shape)])


class Sketch:
    """A one-op graph in the making: inputs with random values that fp16 holds, constants, nodes."""

    def __init__(self, dtype: ir.DataType = _F32) -> None:
        self.rng, self.dtype = np.random.default_rng(7), dtype
        self.feeds: dict[str, np.ndarray] = {}
        self.inputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def input(self, name: str, *shape: int, values: np.ndarray | None = None) -> ir.Value:
        if values is None:
            values = self.rng.standard_normal(shape)
        if values.dtype.kind == "f":
            values = values.astype(np.float16).astype(self.dtype.numpy())
        self.feeds[name] = values
        dtype = ir.DataType.from_numpy(values.dtype)
        self.inputs.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(values.shape)))
        return self.inputs[-1]

    def const(self, name: str, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        if dtype is not None:  # int4 and friends
            array = array.astype(dtype.numpy())
        weight: Weight = from_array(name, array)
        self.initializers.append(
            ir.Value(name=name, type=ir.TensorType(weight.dtype), shape=weight.shape, const_value=weight)
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
        domain = attrs.pop("domain", "")
        made = [ir.Value(name=f"{name}.{i}", type=ir.TensorType(self.dtype)) for i in range(outputs)]
        made[0].shape = ir.Shape(shape)
        attributes = ir.convenience.convert_attributes(attrs)
        self.nodes.append(ir.Node(domain, kind, inputs, attributes, outputs=made, name=name))
        return made[0]

    def done(self, *outputs: ir.Value) -> tuple[ir.Model, dict[str, np.ndarray]]:
        for index, value in enumerate(outputs):
            value.name = value.name if (value.name or "").startswith("past_") else f"y{index}"
        graph = ir.Graph(
            self.inputs, list(outputs), nodes=self.nodes, initializers=self.initializers,
            opset_imports={"": 24 if self.dtype == _F32 else 23, CONTRIB: 1}, name="case",
        )  # fmt: skip
        return ir.Model(graph, ir_version=11), self.feeds


def _case(lowering: str, make: Callable[..., Any], raw: bool = False, **shape: int | str | bool) -> Case:
    return Case(lowering, tuple(sorted(shape.items())), lambda: make(**shape), raw)


def nbits(tokens: int, k: int, n: int, bits: int, block: int | str, symmetric: bool) -> Any:
    """A quantised linear in the form the quantize pass leaves; block "channel": one scale per output."""
    g = Sketch()
    dtype = getattr(ir.DataType, f"{'' if symmetric else 'U'}INT{bits}")
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if symmetric else (0, (1 << bits) - 1)
    q = g.const("op.weight", g.rng.integers(low, high + 1, (n, k)), dtype)
    grain = (n,) if block == "channel" else (n, k // int(block))
    scale = (g.rng.uniform(0.5, 1.5, grain) / (high - low) / math.sqrt(k) * 4).astype(np.float16)
    inputs = [q, g.const("op.weight_scale", scale.astype(np.float32))]
    if not symmetric:
        inputs.append(g.const("op.weight_zero", g.rng.integers(low, high + 1, grain), dtype))
    attrs = {"axis": 0} if block == "channel" else {"axis": 1, "block_size": int(block)}
    w = g.op("DequantizeLinear", *inputs, shape=(n, k), name="op.dequant", **attrs)
    turned = g.op("Transpose", w, shape=(k, n), name="op.transpose", perm=[1, 0])
    return g.done(g.op("MatMul", g.input("x", 1, tokens, k), turned, shape=(1, tokens, n)))


def matmul(tokens: int, k: int, n: int) -> Any:
    g = Sketch()
    w = g.const("op.weight", (g.rng.standard_normal((n, k)) / math.sqrt(k)).astype(np.float32))
    turned = g.op("Transpose", w, shape=(k, n), name="op.transpose", perm=[1, 0])
    return g.done(g.op("MatMul", g.input("x", 1, tokens, k), turned, shape=(1, tokens, n)))


def norm(kind: str, heads: int, rows: int, size: int) -> Any:
    """`heads` > 1: over the last axis of [1,S,heads,size], as q and k norms are."""
    g = Sketch()
    shape = (1, rows // heads, heads, size) if heads > 1 else (1, rows, size)
    gains = [g.const("gain", g.rng.uniform(0.5, 1.5, size).astype(np.float32))]
    if kind == "LayerNormalization":
        gains.append(g.const("shift", g.rng.standard_normal(size).astype(np.float32)))
    return g.done(g.op(kind, g.input("x", *shape), *gains, shape=shape, axis=-1, epsilon=1e-6))


def rotary(tokens: int, heads: int, head_dim: int, turned: bool) -> Any:
    g = Sketch()
    half = head_dim // 2 if turned else head_dim // 4
    angle = np.outer(np.arange(tokens) + 3, 10000.0 ** (-np.arange(half) / half))[None]
    x = g.input("x", 1, heads, tokens, head_dim)
    cos, sin = g.input("cos", values=np.cos(angle)), g.input("sin", values=np.sin(angle))
    attrs: dict[str, Any] = {} if turned else {"rotary_embedding_dim": 2 * half, "num_heads": heads}
    return g.done(g.op("RotaryEmbedding", x, cos, sin, shape=(1, heads, tokens, head_dim), **attrs))


def attention(tokens: int, context: int, heads: int, kv_heads: int, head_dim: int, cache: bool, mask: bool) -> Any:
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
        for name in ("key", "value"):
            values = g.rng.standard_normal((1, kv_heads, past, head_dim))
            values[:, :, past // 2 :] = 30.0 if name == "key" else 2.0
            inputs.append(g.input(f"past_{name}_0_in", values=values))
    y = g.op("Attention", *inputs, shape=(1, heads, tokens, head_dim), outputs=3 if cache else 1, scale=head_dim**-0.5)
    return g.done(y)


def swish(rank: int, elements: int) -> Any:
    g = Sketch()
    shape = spread(rank, elements)
    return g.done(g.op("Swish", g.input("x", *shape), shape=shape))


def embedding(tokens: int, vocab: int, size: int) -> Any:
    g = Sketch()
    table = g.const("op.weight", g.rng.standard_normal((vocab, size)).astype(np.float16).astype(np.float32))
    ids = g.input("ids", values=g.rng.integers(0, vocab, (1, tokens)).astype(np.int32))
    return g.done(g.op("Gather", table, ids, shape=(1, tokens, size), axis=0))


def softmax(rank: int, rows: int, size: int) -> Any:
    g = Sketch()
    shape = (*spread(rank - 1, rows), size)
    return g.done(g.op("Softmax", g.input("x", *shape), shape=shape, axis=-1))


def unary(kind: str, rank: int, elements: int) -> Any:
    g = Sketch()
    shape = spread(rank, elements)
    x = g.input("x", values=np.abs(g.rng.standard_normal(shape)) + 0.1) if kind == "Sqrt" else g.input("x", *shape)
    return g.done(g.op(kind, x, shape=shape))


def binary(kind: str, rank: int, elements: int) -> Any:
    g = Sketch()
    shape = spread(rank, elements)
    b = g.input("b", values=np.abs(g.rng.standard_normal(shape)) + 0.5) if kind == "Div" else g.input("b", *shape)
    return g.done(g.op(kind, g.input("a", *shape), b, shape=shape))


def product(rank: int, m: int, k: int, n: int) -> Any:
    g = Sketch()
    lead = (1, 2)[4 - rank :]
    return g.done(g.op("MatMul", g.input("a", *lead, m, k), g.input("b", *lead, k, n), shape=(*lead, m, n)))


def conv(kernel: int, depthwise: bool, channels: int, inputs: int, size: int) -> Any:
    g = Sketch()
    group = channels if depthwise else 1
    w = g.rng.standard_normal((channels, inputs // group, kernel, kernel)) / kernel / math.sqrt(inputs // group)
    bias = g.const("bias", g.rng.standard_normal(channels).astype(np.float32))
    x, pad = g.input("x", 1, inputs, size, size), kernel // 2
    return g.done(
        g.op("Conv", x, g.const("w", w.astype(np.float32)), bias, shape=(1, channels, size, size),
             kernel_shape=[kernel, kernel], pads=[pad] * 4, group=group)
    )  # fmt: skip


def pool(kind: str, channels: int, size: int) -> Any:
    g = Sketch()
    if kind == "GlobalAveragePool":
        return g.done(g.op(kind, g.input("x", 1, channels, 8, 8), shape=(1, channels, 1, 1)))
    x = g.input("x", 1, channels, 2 * size, 2 * size)
    return g.done(g.op(kind, x, shape=(1, channels, size, size), kernel_shape=[2, 2], strides=[2, 2]))


def transpose(perm: str, elements: int) -> Any:
    g = Sketch()
    axes = [int(axis) for axis in perm]
    shape = spread(len(axes), elements)
    return g.done(g.op("Transpose", g.input("x", *shape), shape=[shape[a] for a in axes], perm=axes))


def concat(rank: int, axis: int, elements: int) -> Any:
    g = Sketch()
    shape = list(spread(rank, elements // 2))
    a, b = g.input("a", *shape), g.input("b", *shape)
    shape[axis] *= 2
    return g.done(g.op("Concat", a, b, shape=shape, axis=axis))


def slice_(rank: int, elements: int) -> Any:
    g = Sketch()
    shape = list(spread(rank, elements * 2))
    bounds = [g.const(name, np.array([value])) for name, value in (("s", 0), ("e", shape[-1] // 2), ("ax", rank - 1))]
    x = g.input("x", *shape)
    return g.done(g.op("Slice", x, *bounds, shape=(*shape[:-1], shape[-1] // 2)))


def clip(rank: int, elements: int) -> Any:
    g = Sketch()
    shape = spread(rank, elements)
    low, high = (g.const(name, np.array(v, np.float32)) for name, v in (("low", -0.5), ("high", 0.75)))
    return g.done(g.op("Clip", g.input("x", *shape), low, high, shape=shape))


def reduce_mean(rank: int, elements: int) -> Any:
    g = Sketch()
    shape = spread(rank, elements)
    x = g.input("x", *shape)
    return g.done(g.op("ReduceMean", x, g.const("axes", np.array([-1])), shape=(*shape[:-1], 1), keepdims=1))


def reshape(rank: int) -> Any:
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


def grid(quick: bool = False) -> Iterator[Case]:
    """Every case of the table; `quick` keeps a few of each kind."""
    from .known_wrong import known_wrong

    tokens = FEW_TOKENS if quick else TOKENS
    yield from _linears(tokens, quick)
    yield from _decoder(tokens, quick)
    yield from _ops(quick)
    yield from known_wrong(quick)


def _linears(tokens: Sequence[int], quick: bool) -> Iterator[Case]:
    blocks = (32, 64, 128, "channel") if quick else (16, 32, 64, 128, 256, "channel")
    formats = [(bits, block, sym) for bits in (4, 8) for block in blocks for sym in (True, False)]
    corners = ((1, 14336, 64), (4, 1024, 3072), (128, 256, 768), (4, 128, 384), (1, 256, 151936), (8, 256, 8))
    for bits, block, symmetric in formats:
        if quick and not symmetric and block != 32:
            continue
        shape = {"bits": bits, "block": block, "symmetric": symmetric}
        for t in tokens if block in (32, 64, 128) else FEW_TOKENS:
            yield _case("matmul_nbits", nbits, tokens=t, k=256, n=128, **shape)
        for t, k, n in corners if block in (32, 128) and symmetric else corners[:3]:
            if block != "channel" and k % int(block):
                continue
            yield _case("matmul_nbits", nbits, tokens=t, k=k, n=n, **shape)
    for t in tokens:
        yield _case("matmul", matmul, tokens=t, k=256, n=128)
    for t, k, n in ((1, 14336, 64), (4, 1024, 3072), (128, 768, 256), (1, 256, 151936), (8, 16, 4), (128, 256, 2048)):
        yield _case("matmul", matmul, tokens=t, k=k, n=n)


def _decoder(tokens: Sequence[int], quick: bool) -> Iterator[Case]:
    for kind, name in (("RMSNormalization", "rms_norm"), ("LayerNormalization", "layer_norm")):
        yield from _norms(kind, name, tokens if name == "rms_norm" else FEW_TOKENS, quick)
    cached = {"cache": True, "mask": True}
    for size in (32, 64, 128) if quick else HEAD_DIMS:
        for t in tokens:
            yield _case("rotary", rotary, tokens=t, heads=8, head_dim=size, turned=True)
            yield _case("attention", attention, tokens=t, context=256, heads=8, kv_heads=2, head_dim=size, **cached)
        for t in FEW_TOKENS:
            yield _case("rotary", rotary, tokens=t, heads=2, head_dim=size, turned=True)
            for heads, kv in () if quick else ((8, 8), (9, 3), (14, 2)):
                shape = {"heads": heads, "kv_heads": kv, "head_dim": size}
                yield _case("attention", attention, tokens=t, context=256, **shape, **cached)
    for heads, t in ((1, 1), (1, 128), (32, 1), (32, 128)):
        yield _case("rotary", rotary, tokens=t, heads=heads, head_dim=128, turned=True)
    for t in FEW_TOKENS:
        yield _case("rotary", rotary, tokens=t, heads=8, head_dim=64, turned=False)
        for context in (512, 2048) if quick else (512, 1024, 2048, 4096):
            yield _case("attention", attention, tokens=t, context=context, heads=8, kv_heads=2, head_dim=32, **cached)
        for masked in (True, False):
            shape = {"heads": 8, "kv_heads": 8, "head_dim": 64, "cache": False, "mask": masked}
            yield _case("attention", attention, tokens=t, context=t, **shape)
    for heads, kv, size in ((16, 8, 128), (32, 8, 128), (16, 2, 128), (4, 1, 32), (1, 1, 32)):
        for t in (1, 64):
            yield _case(
                "attention", attention, tokens=t, context=512, heads=heads, kv_heads=kv, head_dim=size, **cached
            )
    yield _case("attention", attention, tokens=4, context=5, heads=4, kv_heads=2, head_dim=32, **cached)
    for t, vocab, size in (
        (1, 2048, 256),
        (4, 2048, 256),
        (128, 2048, 256),
        (3, 300, 64),
        (16, 32768, 1024),
        (1, 151936, 128),
        (1, 512, 4096),
    ):
        yield _case("embedding", embedding, tokens=t, vocab=vocab, size=size)


def _norms(kind: str, name: str, tokens: Sequence[int], quick: bool) -> Iterator[Case]:
    """Over hidden sizes, then over heads as the q and k norms of a decoder are."""

    def plain(rows: int, size: int) -> Any:
        return norm(kind, 1, rows, size)

    def heads(rows: int, size: int) -> Any:
        return norm(kind, 8, rows, size)

    for size in (64, 256, 1024, 4096) if quick else (64, 128, 256, 576, 896, 1024, 2560, 4096):
        for t in tokens if size in (256, 1024) else FEW_TOKENS:
            yield _case(name, plain, rows=t, size=size)
    for size in (32, 128) if quick else HEAD_DIMS:
        for t in tokens:
            yield _case(name, heads, rows=8 * t, size=size)
    yield _case(name, heads, rows=4096, size=128)


ELEMENTS = (4, 98304)
BIG = 128 * 9728  # the inner activation of a 4B model at 128 tokens
IN_DECODERS = ("Add", "Mul")


def _ops(quick: bool) -> Iterator[Case]:
    from .elementwise import BINARY, UNARY

    elements = ELEMENTS
    for rank in (3, 4) if quick else (2, 3, 4):
        for e in elements:
            for kind in UNARY:
                yield _case(f"op.{kind}", partial(unary, kind), rank=rank, elements=e)
            for kind in BINARY:
                yield _case(f"op.{kind}", partial(binary, kind), rank=rank, elements=e)
            yield _case("op.Clip", clip, rank=rank, elements=e)
            yield _case("op.Slice", slice_, rank=rank, elements=e)
            yield _case("op.ReduceMean", reduce_mean, rank=rank, elements=e)
            for axis in range(rank):
                yield _case("op.Concat", concat, rank=rank, axis=axis, elements=2 * e)
        for e in (*elements, 768, BIG):
            yield _case("swish", swish, rank=rank, elements=e)
            for kind in IN_DECODERS:
                yield _case(f"op.{kind}", partial(binary, kind), rank=rank, elements=e)
        yield _case("op.Reshape", reshape, rank=rank)
    for rank in (2, 3, 4):
        for rows in (1, 4, 64, 128):
            for size in (2, 512) if quick else (2, 16, 512, 2048):
                yield _case("softmax", softmax, rank=rank, rows=rows, size=size)
        for m, k, n in ((1, 64, 64), (16, 32, 128), (128, 128, 512), (4, 4, 4)):
            yield _case("op.MatMul", product, rank=rank, m=m, k=k, n=n)
    for perm in ("10", "021", "102", "210", "0213", "0132", "0231", "0312", "1023", "2013", "0321"):
        for e in (*elements, 524288):
            yield _case("op.Transpose", transpose, perm=perm, elements=e)
    for kernel in (1, 3, 5):
        for depthwise in (False, True):
            for channels, size in ((16, 16), (64, 8), (32, 56), (256, 4), (8, 112)):
                inputs = channels if depthwise else 3 if channels == 16 else 32
                yield _case(
                    "conv", conv, kernel=kernel, depthwise=depthwise, channels=channels, inputs=inputs, size=size
                )
    for kind in ("MaxPool", "AveragePool", "GlobalAveragePool"):
        for channels, size in ((16, 8), (256, 2), (32, 56)):
            size = 1 if kind == "GlobalAveragePool" else size
            yield _case(f"op.{kind}", partial(pool, kind), channels=channels, size=size)
