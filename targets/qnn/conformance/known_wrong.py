"""Negative rows of the table: graphs HTP computes wrong or refuses, kept as the reason for a lowering's form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ....compiler.emit.conformance.measure import Case
from ..lower.builder import CONTRIB
from .one_op_graphs import FEW_TOKENS, GraphAndFeeds, Sketch

_F16 = ir.DataType.FLOAT16


def known_wrong(quick: bool = False) -> Iterator[Case]:
    """Cases that are compiled as they stand; nothing the emitter chooses."""
    for tokens in FEW_TOKENS[:2] if quick else FEW_TOKENS:
        for size in (32, 128):
            shape = (("rank", 4), ("size", size), ("tokens", tokens))
            yield Case("raw.rms_norm", shape, lambda t=tokens, s=size: _rms_rank4(t, s), raw=True)
        yield Case("raw.rotary_contrib", (("tokens", tokens),), lambda t=tokens: _rotary_contrib(t), raw=True)
        yield Case("raw.matmul_5d", (("tokens", tokens),), lambda t=tokens: _matmul_5d(t), raw=True)
        yield Case("raw.erf", (("tokens", tokens),), lambda t=tokens: _erf(t), raw=True)
        yield Case("raw.lookup_quantized", (("tokens", tokens),), lambda t=tokens: _lookup(t), raw=True)


def _rms_rank4(tokens: int, size: int) -> GraphAndFeeds:
    g = Sketch(_F16)
    shape = (1, tokens, 8, size)
    gain = g.const("gain", g.rng.uniform(0.5, 1.5, size).astype(np.float16))
    return g.done(g.op("RMSNormalization", g.input("x", *shape), gain, shape=shape, axis=-1, epsilon=1e-6))


def _rotary_contrib(tokens: int) -> GraphAndFeeds:
    g = Sketch(_F16)
    angle = np.outer(np.arange(tokens), 10000.0 ** (-np.arange(32) / 32))
    x = g.input("x", 1, 8, tokens, 64)
    ids = g.input("ids", values=np.zeros(1, np.int64))
    cos, sin = g.const("cos", np.cos(angle).astype(np.float16)), g.const("sin", np.sin(angle).astype(np.float16))
    return g.done(g.op("RotaryEmbedding", x, ids, cos, sin, shape=(1, 8, tokens, 64), domain=CONTRIB))


def _matmul_5d(tokens: int) -> GraphAndFeeds:
    g = Sketch(_F16)
    a, b = g.input("a", 1, 2, 4, tokens, 32), g.input("b", 1, 2, 1, 32, 64)
    return g.done(g.op("MatMul", a, b, shape=(1, 2, 4, tokens, 64)))


def _erf(tokens: int) -> GraphAndFeeds:
    g = Sketch(_F16)
    return g.done(g.op("Erf", g.input("x", 1, tokens, 64), shape=(1, tokens, 64)))


def _lookup(tokens: int) -> GraphAndFeeds:
    g = Sketch(_F16)
    table = g.const("table", g.rng.integers(0, 256, (64, 32)).astype(np.uint8))
    ids = g.input("ids", values=g.rng.integers(0, 64, (1, tokens)).astype(np.int64))
    scale = g.const("scale", np.full((64, 2), 0.01, np.float16))
    return g.done(
        g.op("GatherBlockQuantized", table, ids, scale, shape=(1, tokens, 64), domain=CONTRIB,
             bits=4, block_size=32, gather_axis=0, quantize_axis=1)
    )  # fmt: skip
