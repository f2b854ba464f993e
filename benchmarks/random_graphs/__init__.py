"""Random graphs of one op, or a body, with odd attributes: functions that fill a `Graph`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from .arithmetic import (
    binary,
    cast,
    casts_and_big,
    clip,
    contrib,
    cumsum,
    einsum,
    float_sizes,
    gemm,
    integer_products,
    matmul,
    reduce,
    signal,
    softmax,
    unary,
)
from .bodies import bodies, odd_outputs, sequences
from .graph import Graph
from .moves import arg, concat, empty, gather, made, pad, reshape, scatter, shapes, slice_, split, squeeze, topk, where
from .older import old
from .windows import conv, conv_transpose, global_pool, image, norm, pool, recurrent, resize, space

Recipe = Callable[[Graph], None]

_TWICE: list[Recipe] = [
    conv, pool, resize, recurrent, gather, reduce, norm, binary, unary, made, image, bodies
]  # fmt: skip
_ONCE: list[Recipe] = [
    conv_transpose, global_pool, reshape, empty, slice_, scatter, pad, arg, softmax, cast, clip, where, cumsum, topk,
    split, concat, squeeze, space, einsum, matmul, gemm, integer_products, shapes, signal, sequences, odd_outputs,
    casts_and_big, float_sizes, contrib,
]  # fmt: skip
_FOLDABLE = [one for one in (*_TWICE, *_ONCE) if one not in (empty, odd_outputs, contrib, bodies)]


def folded(g: Graph) -> None:
    """Ops of constants alone, whose results an edge reads: what is computed at load must be ONNX Runtime's."""
    inner = Graph(g.r, g.opset, n=g.n)
    g.pick(*_FOLDABLE)(inner)
    g.nodes += inner.nodes
    g.consts |= inner.consts | inner.inputs
    g.n, g.opset = inner.n, inner.opset
    x = g.x([1])
    for one in inner.outputs:
        if g.chance(0.3):
            g.out(g.op("Identity", [one]))
        else:
            flat = g.op("Reshape", [g.op("Cast", [one], to=TensorProto.FLOAT), g.c([-1], np.int64)])
            g.out(g.op("Concat", [flat, x], axis=0))


RECIPES: list[Recipe] = [*_TWICE, *_TWICE, *_ONCE, *[old] * 3, *[folded] * 3]
