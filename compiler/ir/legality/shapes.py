"""The legality rules about shapes: a decoder's interface, its K/V pairs, and that nothing is dynamic in a bucket.

before `bucket`   input_ids [B,S]   attention_mask [.,1,S,T]   past_*_in [B,G,P,D]   past_*_out [B,G,S,D]
bucket t{S}_c{C}  B = 1, T = C, P = C - S
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

from .. import kv_names
from ..levels import Level
from ..module import BucketShape, Module

_BUCKET = re.compile(r"t[1-9]\d*_c[1-9]\d*")

Dims = list[int | str | None]


def decoder_interface(module: Module) -> Iterator[str]:
    """Graph inputs and outputs of a decoder as its architecture says; at `target` only that K/V come in pairs."""
    if module.arch is None:
        return
    for key, model in module.graphs.items():
        inputs = {value.name or "": value for value in model.graph.inputs}
        outputs = {value.name or "": value for value in model.graph.outputs}
        yield from (f"graph `{key}` {why}" for why in _unpaired(inputs, outputs))
        if module.level < Level.TARGET:
            yield from (f"graph `{key}` {why}" for why in _interface(module, key, inputs, outputs))


def _unpaired(inputs: dict[str, ir.Value], outputs: dict[str, ir.Value]) -> Iterator[str]:
    wanted = {kv_names.IN: outputs, kv_names.OUT: inputs}
    for name in (*inputs, *outputs):
        read = kv_names.parse(name)
        if read is not None:
            other = kv_names.OUT if read.direction == kv_names.IN else kv_names.IN
            partner = kv_names.format(read.kind, read.layer, other)
            if partner not in wanted[read.direction]:
                yield f"has `{name}` without `{partner}`"


def _interface(module: Module, key: str, inputs: dict[str, ir.Value], outputs: dict[str, ir.Value]) -> Iterator[str]:
    arch = module.arch
    if arch is None:
        return
    batch, tokens, past, total = _bucket_dims(module, key)
    float32, int32 = ir.DataType.FLOAT, ir.DataType.INT32
    expected_in: dict[str, tuple[ir.DataType, Dims]] = {
        "input_ids": (int32, [batch, tokens]),
        "position_ids": (int32, [batch, tokens]),
        "attention_mask": (float32, [1 if batch == 1 else None, 1, tokens, total]),
    }
    expected_out: dict[str, tuple[ir.DataType, Dims]] = {"logits": (float32, [batch, tokens, arch.vocab])}
    for layer in range(arch.layers):
        held, added = [batch, arch.kv_heads, past, arch.head_dim], [batch, arch.kv_heads, tokens, arch.head_dim]
        expected_in |= dict.fromkeys(kv_names.pair(layer, kv_names.IN), (float32, held))
        expected_out |= dict.fromkeys(kv_names.pair(layer, kv_names.OUT), (float32, added))
    for kind, expected, found in (("input", expected_in, inputs), ("output", expected_out, outputs)):
        for name in expected.keys() - found.keys():
            yield f"lacks the {kind} `{name}`"
        for name in found.keys() - expected.keys():
            yield f"has an {kind} `{name}` that a decoder does not have"
        for name in [name for name in expected if name in found]:
            dtype, dims = expected[name]
            shape = _dims(found[name])
            if found[name].dtype != dtype or not _fits(shape, dims):
                stated = _shown(dtype, dims)
                yield f"has `{name}` as {_shown(found[name].dtype, shape)}, expected {stated}"


def _bucket_dims(module: Module, key: str) -> tuple[int | str, int | str, int | str, int | str]:
    """B, S, P, T of a graph."""
    if module.level < Level.STATIC or not _BUCKET.fullmatch(key):
        return "B", "S", "P", "T"
    bucket = BucketShape.parse(key)
    return 1, bucket.tokens, bucket.context - bucket.tokens, bucket.context


def _fits(found: Dims, expected: Dims) -> bool:
    """Names of dynamic dimensions are free, but a dynamic one stays dynamic and a number that number."""
    if len(found) != len(expected):
        return False
    return all(
        want is None or (isinstance(have, str) if isinstance(want, str) else have == want)
        for have, want in zip(found, expected, strict=True)
    )


def static_shapes(module: Module) -> Iterator[str]:
    """Every shape a number; a decoder's graphs are named after their buckets."""
    for key, model in module.graphs.items():
        if module.arch is not None and not _BUCKET.fullmatch(key):
            yield f"graph `{key}` of a decoder is not named after a bucket"
        graph = model.graph
        made = [output for node in graph for output in node.outputs if output.uses() or output.is_graph_output()]
        for value in (*graph.inputs, *made):
            if value.shape is None:
                yield f"`{value.name}` in graph `{key}` has no shape"
            elif not value.shape.is_static():
                yield f"`{value.name}` in graph `{key}` has the dynamic shape {_shown(None, _dims(value))}"


def _dims(value: ir.Value) -> Dims:
    if value.shape is None:
        return []
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def _shown(dtype: ir.DataType | None, dims: Dims) -> str:
    return f"{dtype.name.lower() if dtype else ''}[{', '.join('?' if d is None else str(d) for d in dims)}]"
