"""The conformance grid on integer activations: what a decoder is made of in uint16, its linears in uint8 too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ....compiler.emit.conformance.measure import Case
from . import one_op_graphs as makers
from .one_op_graphs import GraphAndFeeds
from .one_op_graphs_integers import attention, integers, linear

TOKENS = (1, 4, 64, 128)
BIG = 128 * 18944
VOCAB = 152064  # the largest of Qwen's
FORMATS = (
    ("int4", "per_channel", 0),
    ("int8", "per_channel", 0),
    ("int16", "per_channel", 0),
    ("int4", "lpbq", 16),
    ("int4", "lpbq", 32),
    ("int4", "lpbq", 64),
    ("int4", "block", 16),
    ("int4", "block", 32),
    ("int4", "block", 64),
    ("int4", "block", 128),
    ("int8", "block", 32),
    ("int8", "block", 128),
)
NARROW = ("per_channel", "lpbq")  # formats that HTP takes with 8-bit activations


def grid(quick: bool = False) -> Iterator[Case]:
    """`quick` keeps the corners of each class."""
    yield from _linears(quick)
    yield from _decoder(quick)
    yield from _ops()


def _case(lowering: str, make: Callable[..., Any], **shape: int | str | bool) -> Case:
    return Case(lowering, tuple(sorted(shape.items())), lambda: make(**shape))


def _linears(quick: bool) -> Iterator[Case]:
    corners = ((1, 14336, 64), (4, 1024, 3072), (128, 256, 768), (4, 128, 384), (8, 256, 8), (1, 256, 32768))
    for activations in ("uint16", "uint8"):
        make = partial(linear, activations=activations)
        for weights, format_, block in FORMATS:
            if activations == "uint8" and (format_ not in NARROW or weights == "int16"):
                continue
            shape = {"weights": weights, "format": format_, "block": block}
            for t in (1, 128) if quick else TOKENS:
                yield _case(f"u{activations[4:]}.linear", make, tokens=t, k=256, n=128, **shape)
            heads = ((1, 256, VOCAB),) if format_ in NARROW else ()  # with float blocks minutes each
            for t, k, n in (*corners, *heads):
                yield _case(f"u{activations[4:]}.linear", make, tokens=t, k=k, n=n, **shape)


def _wrapped(make: Callable[..., GraphAndFeeds]) -> Callable[..., GraphAndFeeds]:
    return lambda **shape: integers(make(**shape))


def _decoder(quick: bool) -> Iterator[Case]:
    def norm(heads: int, epsilon: float = 1e-6) -> Callable[..., GraphAndFeeds]:
        return _wrapped(lambda rows, size: makers.norm("RMSNormalization", heads, rows, size, epsilon))

    for t in TOKENS:
        for size in (64, 4096) if quick else (64, 256, 1024, 2560, 4096):
            yield _case("u16.rms_norm", norm(1), rows=t, size=size)
        for size in (32, 128) if quick else (32, 64, 128):
            yield _case("u16.rms_norm", norm(8), rows=8 * t, size=size)
            yield _case("u16.rotary", _wrapped(makers.rotary), tokens=t, heads=8, head_dim=size, turned=True)
            for kv in ("int16", "uint8"):
                shape = {"heads": 8, "kv_heads": 2, "head_dim": size, "kv": kv}
                yield _case("u16.attention", attention, tokens=t, context=256, **shape)
    yield _case("u16.rms_norm", norm(8), rows=4096, size=128)
    for epsilon in (1e-12, 1e-3):
        yield _case("u16.rms_norm", norm(1, epsilon), rows=4, size=256)
    for heads, t in ((1, 1), (1, 128), (32, 1), (32, 128)):
        yield _case("u16.rotary", _wrapped(makers.rotary), tokens=t, heads=heads, head_dim=128, turned=True)
    for kv in ("int16", "uint8"):
        for t in (1, 128):
            for context in (512, 4096) if quick else (512, 2048, 4096):
                shape = {"heads": 8, "kv_heads": 2, "head_dim": 32, "kv": kv}
                yield _case("u16.attention", attention, tokens=t, context=context, **shape)
            for heads, kv_heads, size in ((16, 8, 128), (32, 8, 128), (4, 1, 32), (1, 1, 32)):
                shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": size, "kv": kv}
                yield _case("u16.attention", attention, tokens=t, context=512, **shape)
        shape = {"heads": 4, "kv_heads": 2, "head_dim": 32, "kv": kv}
        yield _case("u16.attention", attention, tokens=4, context=5, **shape)
    for t, vocab, size in (
        (1, 2048, 256),
        (128, 2048, 256),
        (3, 300, 64),
        (16, 32768, 1024),
        (1, VOCAB, 128),
        (1, 512, 4096),
    ):
        yield _case("u16.embedding", _wrapped(makers.embedding), tokens=t, vocab=vocab, size=size)


def _ops() -> Iterator[Case]:
    for elements in (4, 768, 98304, BIG):
        yield _case("u16.swish", _wrapped(makers.swish), rank=3, elements=elements)
        for kind in ("Add", "Mul"):
            yield _case(f"u16.op.{kind}", _wrapped(partial(makers.binary, kind)), rank=3, elements=elements)
    for rank in (3, 4):
        yield _case("u16.op.Reshape", _wrapped(makers.reshape), rank=rank)
    for perm in ("0213",):
        for elements in (4, 98304, 524288):
            yield _case("u16.op.Transpose", _wrapped(makers.transpose), perm=perm, elements=elements)
