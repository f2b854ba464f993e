"""The grid of the conformance table: for each lowering the emitter can choose, small graphs over shapes and formats.

A case is a *static level* graph, lowered by the very code that lowers models, or (`known_wrong`) a graph written for
the engine directly, to keep on record what HTP computes wrong or refuses and why a lowering looks as it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ....compiler.emit.conformance.measure import Case
from ....compiler.emit.conformance.op_class import Cell
from .one_op_graphs import (
    FEW_TOKENS,
    attention,
    binary,
    clip,
    concat,
    embedding,
    matmul,
    nbits,
    norm,
    product,
    reduce_mean,
    reshape,
    rotary,
    slice_,
    softmax,
    swish,
    transpose,
    unary,
)

TOKENS = (1, 2, 3, 4, 5, 8, 16, 32, 64, 128)
HEAD_DIMS = (32, 64, 80, 96, 128)
HEAD = (
    1,
    256,
    152064,
)  # tokens, K, N of a head: the largest of Qwen's; K is small, since both need only be measured once
HEAD_BLOCKS = (16, 32, 64, 128, 256, "channel")


def _case(lowering: str, make: Callable[..., Any], raw: bool = False, **shape: Cell) -> Case:
    return Case(lowering, tuple(sorted(shape.items())), lambda: make(**shape), raw)


def grid(quick: bool = False) -> Iterator[Case]:
    """Every case of the table; `quick` keeps a few of each kind."""
    from .cases_integers import grid as integer_grid
    from .cases_sparse import grid as sparse_grid
    from .cases_vision import grid as vision_grid
    from .known_wrong import known_wrong

    tokens = FEW_TOKENS if quick else TOKENS
    yield from _linears(tokens, quick)
    yield from _decoder(tokens, quick)
    yield from _ops(quick)
    yield from vision_grid()
    yield from integer_grid(quick)
    yield from sparse_grid(quick)
    yield from known_wrong(quick)


def _linears(tokens: Sequence[int], quick: bool) -> Iterator[Case]:
    blocks = (32, 64, 128, "channel") if quick else (16, 32, 64, 128, 256, "channel")
    formats = [(bits, block, sym) for bits in (2, 4, 8) for block in blocks for sym in (True, False)]
    corners = ((1, 14336, 64), (4, 1024, 3072), (128, 256, 768), (4, 128, 384), (8, 256, 8), (1, 256, 32768))
    for bits, block, symmetric in formats:
        if quick and not symmetric and block != 32:
            continue
        shape = {"bits": bits, "block": block, "symmetric": symmetric}
        for t in tokens if block in (32, 64, 128) else FEW_TOKENS:
            yield _case("matmul_nbits", nbits, tokens=t, k=256, n=128, **shape)
        for t, k, n in (*corners, HEAD) if block in HEAD_BLOCKS and symmetric else corners[:3]:
            if block != "channel" and k % int(block):
                continue
            yield _case("matmul_nbits", nbits, tokens=t, k=k, n=n, **shape)
    for t in tokens:
        yield _case("matmul", matmul, tokens=t, k=256, n=128)
    for t, k, n in (
        (1, 14336, 64),
        (4, 1024, 3072),
        (128, 768, 256),
        (8, 16, 4),
        (128, 256, 2048),
        (1, 256, 32768),
        HEAD,
    ):
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
        for context in (512, 4096) if quick else (512, 1024, 2048, 4096):
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
        (1, HEAD[2], 128),
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
BIG = 128 * 18944  # the inner activation of a 7B model at 128 tokens
IN_DECODERS = ("Add", "Mul")


def _ops(quick: bool) -> Iterator[Case]:
    from ..lower.elementwise import BINARY, UNARY

    elements = ELEMENTS
    for rank in (3, 4) if quick else (2, 3, 4):
        for e in elements:
            for kind in UNARY:
                yield _case(f"op.{kind}", partial(unary, kind), rank=rank, elements=e)
            for kind in BINARY:
                yield _case(f"op.{kind}", partial(binary, kind), rank=rank, elements=e)
            yield _case("op.Clip", clip, rank=rank, elements=e)
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
    yield from _variants()


def _variants() -> Iterator[Case]:
    """Attributes and bounds away from their defaults."""
    for rank in (2, 3, 4):
        for e in ELEMENTS:
            yield _case("op.Gelu", partial(unary, "Gelu"), rank=rank, elements=e, approximate="tanh")
            yield _case("op.ReduceMean", reduce_mean, rank=rank, elements=e, keepdims=0)
            for kind, values in (("LeakyRelu", (0.001, 0.5)), ("Elu", (0.1, 2.0))):
                for alpha in values:
                    yield _case(f"op.{kind}", partial(unary, kind), rank=rank, elements=e, alpha=alpha)
            for axis in range(rank):
                yield _case("op.Slice", slice_, rank=rank, elements=e, axis=axis)
            yield _case("op.Slice", slice_, rank=rank, elements=e, axis=rank - 1, step=2)
    for epsilon in (1e-12, 1e-3):
        for kind, name in (("RMSNormalization", "rms_norm"), ("LayerNormalization", "layer_norm")):
            for rows, size in ((1, 256), (128, 1024)):
                yield _case(name, partial(norm, kind, 1), rows=rows, size=size, epsilon=epsilon)
