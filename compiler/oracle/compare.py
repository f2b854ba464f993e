"""Run a module before and after a rewrite on the same random inputs, and say how far its outputs moved.

    error(output) = max|after - before| / max|before|          an exact rewrite: equal bit patterns, error 0

Inputs are small: every open dimension gets 4 (a decoder: 3 new positions on a cache of 5), float inputs are normal,
integer inputs are indices of what they look up. `probes.py` finds sizes and kinds of numbers that a graph takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..ir import kv_names
from ..ir.annotations import SHADOW
from ..ir.module import MAIN, Module, constant
from .size_inputs import is_size

if TYPE_CHECKING:
    from ..ir.decoder_arch import DecoderArch

_OPEN, _TOKENS, _PAST = 4, 3, 5
_AROUND = 8
_MOVES = ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Expand", "Slice", "Tile", "Concat")
_LOOKUPS = ("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND")
_WORDS = ("", "a", "edge", "two words", "größe")
Feeds = dict[str, np.ndarray]
Sizes = Mapping[str, int]  # of open dimensions: by name, or by `input.axis` where they have none

ORDINARY, FROM_THE_END, WIDE, ZEROS, LARGE, SMALL = "ordinary", "from the end", "wide", "zeros", "large", "small"
NEGATIVE = "negative"  # integers around zero, which read as floats are no numbers
HALVES = "halves"  # what lies between two integers, which is rounded to the even one
SAMPLE = "sample"  # inputs that the plan gives
EDGES = (FROM_THE_END, WIDE, ZEROS, LARGE, SMALL, NEGATIVE, HALVES)  # numbers that a float or an index is usually not
_SCALE = {ZEROS: 0.0, LARGE: 30.0, SMALL: 1e-3}


def random_feeds(
    graph: ir.Graph,
    arch: DecoderArch | None = None,
    seed: int = 0,
    past: int = _PAST,
    sizes: Sizes | None = None,
    kind: str = ORDINARY,
) -> Feeds:
    """Inputs for `graph`; a decoder's mask and positions are those of a real call on a cache of `past`."""
    rng = np.random.default_rng(seed)
    if arch is not None and any(value.name == "input_ids" for value in graph.inputs):
        return _decoder_feeds(graph, arch, rng, past)
    scale = _beyond_clips(graph) if kind == LARGE else _SCALE.get(kind, 1.0)
    return {value.name or "": _random(value, dims(value, sizes or {}), rng, kind, scale) for value in graph.inputs}


def _beyond_clips(graph: ir.Graph) -> float:
    """The scale of large numbers: beyond the ranges of shadows, which are zero of all others."""
    clips = (node for node in graph if node.op_type == "Clip" and SHADOW.get(node) == "cpu")
    ends = (constant(end) for node in clips for end in node.inputs[1:])
    return max([_SCALE[LARGE], *(abs(float(end.numpy())) for end in ends if end is not None)])


def open_dimensions(inputs: Iterable[ir.Value]) -> list[str]:
    """The open dimensions of the inputs, each once: their names, `input.axis` of those that have none."""
    found = (
        dim.value or f"{value.name}.{axis}"
        for value in inputs
        for axis, dim in enumerate(value.shape or ())
        if not isinstance(dim, int)
    )
    return list(dict.fromkeys(found))


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
            last = arch.head_dim if value.shape is None else value.shape[-1]  # several values may lie in a byte
            shape = (1, arch.kv_heads, past, last if isinstance(last, int) else arch.head_dim)
            bytes_ = value.dtype == ir.DataType.UINT8
            feeds[name] = rng.integers(0, 256, shape, np.uint8) if bytes_ else rng.standard_normal(shape, np.float32)
        else:
            feeds[name] = _random(value, dims(value, {}), rng)
    return feeds


def dims(value: ir.Value, sizes: Sizes) -> tuple[int, ...]:
    """The shape of an input with its open dimensions at these sizes."""
    shape = value.shape if value.shape is not None else ()
    return tuple(
        d if isinstance(d, int) else sizes.get(d.value or f"{value.name}.{axis}", _OPEN) for axis, d in enumerate(shape)
    )


def _random(
    value: ir.Value, dims: tuple[int, ...], rng: np.random.Generator, kind: str = ORDINARY, scale: float = 1.0
) -> np.ndarray:
    return np.asarray(_drawn(value, dims, rng, kind, scale))  # of no axes numpy draws a number, which no engine takes


def _drawn(value: ir.Value, dims: tuple[int, ...], rng: np.random.Generator, kind: str, scale: float) -> np.ndarray:
    dtype = value.dtype or ir.DataType.FLOAT
    if dtype == ir.DataType.BOOL:
        return rng.integers(0, 2, dims).astype(bool)
    if dtype == ir.DataType.STRING:
        return np.array([_WORDS[i] for i in rng.integers(0, len(_WORDS), int(np.prod(dims)))], object).reshape(dims)
    if dtype.is_floating_point() and kind == HALVES:
        return (np.rint(rng.standard_normal(dims) * 4) / 2).astype(dtype.numpy())
    if dtype.is_floating_point():
        return (rng.standard_normal(dims) * scale).astype(dtype.numpy())
    limit = _index_limit(value)
    if limit is None and kind == WIDE and not is_size(value):
        info = ir_range(dtype)
        return rng.integers(info[0], info[1], dims, dtype=np.int64, endpoint=True).astype(dtype.numpy())
    if limit is None and kind == NEGATIVE and dtype.is_signed() and not is_size(value):
        return rng.integers(-_AROUND, _AROUND, dims, endpoint=True).astype(dtype.numpy())
    drawn = rng.integers(0, limit or 2, dims)
    if kind == FROM_THE_END and limit is not None and dtype.is_signed():  # every other one, and the first
        drawn = drawn - limit * (1 - np.arange(drawn.size if dims else 1).reshape(dims) % 2)
    return np.asarray(drawn).astype(dtype.numpy())


def ir_range(dtype: ir.DataType) -> tuple[int, int]:
    """The integers of a type, those of 64 bits as far as 32 bits go: sizes and ids are no larger."""
    bits = min(dtype.bitwidth, 32)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.is_signed() else (0, (1 << bits) - 1)


def _index_limit(value: ir.Value) -> int | None:
    """Rows of the smallest table that `value` looks up, also through ops that move it; None if it looks up none.

    Of an index that is one place along several axes, the shortest of them.
    """
    sizes: list[int] = []
    seen, waiting = {value}, [value]
    while waiting:
        for use in waiting.pop().uses():
            node = use.node
            if node.op_type in _MOVES and (use.idx == 0 or node.op_type == "Concat") and node.outputs[0] not in seen:
                waiting.append(node.outputs[0])
                seen.add(node.outputs[0])
            if node.op_type == "OneHot" and use.idx == 0:
                depth = constant(node.inputs[1])
                sizes += [] if depth is None else [int(np.asarray(depth.numpy()).reshape(-1)[0])]
            elif node.op_type in _LOOKUPS and use.idx == 1:
                sizes += _rows_of(node)
    return min((size for size in sizes if size > 0), default=None)


def _rows_of(node: ir.Node) -> list[int]:
    """The sizes of the axes of its table that the indices of a Gather or Scatter of any kind are along."""
    table, indices = node.inputs[0], node.inputs[1]
    held = None if table is None or table.shape is not None else constant(table)
    shape = list(held.shape if held is not None else table.shape or ()) if table is not None else []
    if node.op_type in ("GatherND", "ScatterND"):
        many = indices.shape[-1] if indices is not None and indices.shape is not None and len(indices.shape) else None
        first = node.attributes.get_int("batch_dims", 0)
        shape = shape[first : first + many] if isinstance(many, int) else shape[first:]
    else:
        axis = node.attributes.get_int("axis", 0)
        shape = [shape[axis]] if -len(shape) <= axis < len(shape) else []
    return [size if isinstance(size, int) else _OPEN for size in shape]


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
