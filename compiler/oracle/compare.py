"""Run a module before and after a rewrite on the same random inputs, and say how far its outputs moved.

    error(output) = max|after - before| / max|before|          an exact rewrite: equal bit patterns, error 0

Inputs are small: every open dimension gets 4 (a decoder: 3 new positions on a cache of 5), float inputs are normal,
integer inputs are indices of what they look up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..ir import kv_names
from ..ir.module import MAIN, Module, constant

if TYPE_CHECKING:
    from ..ir.decoder_arch import DecoderArch

_OPEN, _TOKENS, _PAST = 4, 3, 5
Feeds = dict[str, np.ndarray]


def random_feeds(graph: ir.Graph, arch: DecoderArch | None = None, seed: int = 0, past: int = _PAST) -> Feeds:
    """Inputs for `graph`; a decoder's mask and positions are those of a real call on a cache of `past`."""
    rng = np.random.default_rng(seed)
    if arch is not None and any(value.name == "input_ids" for value in graph.inputs):
        return _decoder_feeds(graph, arch, rng, past)
    return {value.name or "": _random(value, _dims(value, {}), rng) for value in graph.inputs}


def _decoder_feeds(graph: ir.Graph, arch: DecoderArch, rng: np.random.Generator, past: int) -> Feeds:
    from .oracle import causal_mask

    tokens = _TOKENS
    for value in graph.inputs:
        if value.shape is None or not value.shape.is_static():
            continue
        if value.name == "input_ids":  # a part of a decoder may have these and no mask
            tokens = int(value.shape.numpy()[1])
        if value.name == "attention_mask":
            _, _, tokens, total = (int(d) for d in value.shape.numpy())
            past = total - tokens
    feeds: Feeds = {}
    for value in graph.inputs:
        name = value.name or ""
        if name == "input_ids":
            feeds[name] = rng.integers(0, arch.vocab, (1, tokens), dtype=np.int32)
        elif name == "position_ids":
            feeds[name] = np.arange(past, past + tokens, dtype=np.int32)[None]
        elif name == "attention_mask":
            feeds[name] = causal_mask(tokens, past)
        elif kv_names.is_cache(name):
            shape = (1, arch.kv_heads, past, arch.head_dim)
            feeds[name] = rng.standard_normal(shape).astype(np.float32)
        else:
            feeds[name] = _random(value, _dims(value, {}), rng)
    return feeds


def _dims(value: ir.Value, numbers: Mapping[str, int]) -> tuple[int, ...]:
    dims = value.shape if value.shape is not None else ()
    return tuple(d if isinstance(d, int) else numbers.get(d.value or "", _OPEN) for d in dims)


def _random(value: ir.Value, dims: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    dtype = value.dtype or ir.DataType.FLOAT
    if dtype == ir.DataType.BOOL:
        return rng.integers(0, 2, dims).astype(bool)
    if dtype.is_floating_point():
        return rng.standard_normal(dims).astype(dtype.numpy())
    return rng.integers(0, _index_limit(value), dims).astype(dtype.numpy())


def _index_limit(value: ir.Value) -> int:
    """How many rows the smallest table has that `value` looks up; 2 if it looks up none."""
    sizes = []
    for use in value.uses():
        table = use.node.inputs[0] if use.node.op_type.startswith("Gather") and use.idx == 1 else None
        if table is not None:
            axis = use.node.attributes.get("axis")
            shape = table.shape if table.shape is not None else (c.shape if (c := constant(table)) else None)
            if shape is not None and isinstance(size := shape[axis.as_int() if axis else 0], int):
                sizes.append(size)
    return min(sizes, default=2)


def outputs(module: Module, key: str, feeds: Feeds) -> dict[str, np.ndarray]:
    """Outputs of the graph `key` of `module` for `feeds`, in the oracle."""
    from .oracle import run

    return run(module.graphs[key], feeds)


def errors(
    before: Module, after: Module, seed: int = 0, feeds: Feeds | None = None, moved_cache: bool = False
) -> dict[str, float]:
    """Output -> relative error, the largest over all graphs.

    A bucket is compared with the graph it was specialised from.

    `moved_cache`: the pass intentionally changed what caches contain, so they start empty and are not compared.
    """
    worst: dict[str, float] = {}
    for key, model in after.graphs.items():
        past = 0 if moved_cache else _PAST
        given = feeds if feeds is not None else random_feeds(model.graph, after.arch, seed, past)
        expected = outputs(before, key if key in before.graphs else MAIN, given)
        for name, made in outputs(after, key, given).items():
            if moved_cache and kv_names.is_cache(name):
                continue
            error = relative_error(expected[name], made) if name in expected else float("inf")
            worst[name] = max(worst.get(name, 0.0), error)
    return worst


def relative_error(expected: np.ndarray, made: np.ndarray) -> float:
    """max|made - expected| / max|expected|; 0 only for equal arrays, infinity where they cannot be compared."""
    if expected.shape != made.shape or expected.dtype != made.dtype:
        return float("inf")
    if np.array_equal(expected, made, equal_nan=expected.dtype.kind == "f"):
        return 0.0
    if expected.dtype.kind not in "fiu":
        return float("inf")
    a, b = expected.astype(np.float64), made.astype(np.float64)
    if not (np.isfinite(a) == np.isfinite(b)).all():
        return float("inf")
    scale = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    difference = np.abs(a - b)[np.isfinite(a)].max(initial=0.0)
    return float(difference / scale) if scale else float("inf")
