"""A K/V cache of 4 bits a value, two values in a byte, with a scale and a zero point for each channel of each K/V head.

    module    K, V added  ->  q = clip(round(x / s[g,d]) + z[g,d], 0, 15),  read and cached as (q - z[g,d]) * s[g,d]
    file      past  uint8 [B,G,P,D/2] -> floats;   added q [B,G,S,D] -> uint8 [B,G,S,D/2]
    byte      channel c in its low half, channel c + D/2 in its high half

The module's cache holds floats of the grid, so that its perplexity has the cost in it; what is emitted holds the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from . import kv_names
from .module import constant, initializer
from .weights import as_weight, from_array

LEVELS = 15
PER_BYTE = 2
_WORD = "kv4"


@dataclass(frozen=True)
class ChannelScales:
    """scale [G,D] float32 and zero [G,D] integers, which may lie outside 0 to 15, of one tensor of keys or values."""

    scale: np.ndarray
    zero: np.ndarray


def round_added(graph: ir.Graph, value: ir.Value, scales: ChannelScales) -> None:
    """Let the graph output `value` [B,G,S,D], and all that reads it, have the values of the grid."""
    name, readers = value.name or "", [(use.node, use.idx) for use in value.uses()]
    value.name = f"{name}.{_WORD}.float"
    wide = _constants(graph, name, scales)
    divided = _op(graph, "Div", [value, wide["scale"]], f"{name}.{_WORD}.divided", value)
    rounded = _op(graph, "Round", [divided], f"{name}.{_WORD}.rounded", value)
    moved = _op(graph, "Add", [rounded, wide["zero"]], f"{name}.{_WORD}.moved", value)
    q = _op(graph, "Clip", [moved, wide["least"], wide["most"]], f"{name}.{_WORD}.q", value)
    back = _op(graph, "Sub", [q, wide["zero"]], f"{name}.{_WORD}.back", value)
    made = _op(graph, "Mul", [back, wide["scale"]], name, value)
    for node, index in readers:
        node.replace_input_with(index, made)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = made
    graph.sort()


def pack_cache(graph: ir.Graph) -> dict[str, ChannelScales]:
    """Give the caches of a graph whose added values are on the grid the form of bytes.

    Returns the scales of each tensor, by its name without a direction.
    """
    found = {}
    for value in list(graph.outputs):
        named = kv_names.parse(value.name)
        if named is not None and named.direction == kv_names.OUT:
            scales = _scales(graph, value.name or "")
            found[kv_names.STEMS[named.kind].format(layer=named.layer)] = scales
            _pack_added(graph, value)
    for value in list(graph.inputs):
        named = kv_names.parse(value.name)
        if named is not None:
            stem = kv_names.STEMS[named.kind].format(layer=named.layer)
            _unpack_past(graph, value, found[stem])
    graph.sort()
    return found


def unpacked(stored: np.ndarray, scales: ChannelScales) -> np.ndarray:
    """Bytes [B,G,S,D/2] as float32 [B,G,S,D]."""
    q = np.concatenate([stored & LEVELS, stored >> 4], axis=-1).astype(np.float32)
    return (q - scales.zero[:, None]) * scales.scale[:, None].astype(np.float32)


def _pack_added(graph: ir.Graph, value: ir.Value) -> None:
    name = value.name or ""
    q = next(node.outputs[0] for node in graph if node.outputs[0].name == f"{name}.{_WORD}.q")
    half = _width(name, list(q.shape or ())) // PER_BYTE
    value.name = f"{name}.{_WORD}.floats"
    halves = [
        _slice(graph, q, begin, begin + half, f"{name}.{_WORD}.{which}")
        for which, begin in (("low", 0), ("high", half))
    ]
    sixteen = _scalar(graph, f"{_WORD}.sixteen", LEVELS + 1.0)
    up = _op(graph, "Mul", [halves[1], sixteen], f"{name}.{_WORD}.up", halves[1])
    both = _op(graph, "Add", [halves[0], up], f"{name}.{_WORD}.both", halves[0])
    packed = _op(graph, "Cast", [both], name, both, to=int(ir.DataType.UINT8))
    packed.dtype = ir.DataType.UINT8
    graph.outputs[list(graph.outputs).index(value)] = packed


def _unpack_past(graph: ir.Graph, value: ir.Value, scales: ChannelScales) -> None:
    name, shape = value.name or "", list(value.shape or ())
    width = _width(name, shape) // PER_BYTE
    packed = ir.Value(name=name, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([*shape[:-1], width]))
    value.name = f"{name}.{_WORD}.replaced"
    wide, stem = _constants(graph, name, scales), f"{name}.{_WORD}"
    sixteen = _scalar(graph, f"{_WORD}.sixteen", LEVELS + 1.0)
    floats = _op(graph, "Cast", [packed], f"{stem}.bytes", packed, to=int(ir.DataType.FLOAT))
    floats.dtype = ir.DataType.FLOAT
    divided = _op(graph, "Div", [floats, sixteen], f"{stem}.divided", floats)
    high = _op(graph, "Floor", [divided], f"{stem}.high", floats)
    above = _op(graph, "Mul", [high, sixteen], f"{stem}.above", floats)
    low = _op(graph, "Sub", [floats, above], f"{stem}.low", floats)
    q = _op(graph, "Concat", [low, high], f"{stem}.q", value, axis=-1)
    back = _op(graph, "Sub", [q, wide["zero"]], f"{stem}.back", value)
    made = _op(graph, "Mul", [back, wide["scale"]], f"{stem}.floats", value)
    value.replace_all_uses_with(made)
    graph.inputs[list(graph.inputs).index(value)] = packed


def _width(name: str, shape: list[int | ir.SymbolicDim]) -> int:
    """Channels of a head."""
    if not shape or not isinstance(shape[-1], int):
        raise ValueError(f"`{name}` has an open number of channels")
    return shape[-1]


def _scales(graph: ir.Graph, name: str) -> ChannelScales:
    held = [constant(graph.initializers.get(f"{name}.{_WORD}.{what}")) for what in ("scale", "zero")]
    if None in held:
        raise ValueError(f"`{name}` is not rounded to 4 bits")
    scale, zero = (as_weight(one).numpy()[0, :, 0] for one in held if one is not None)
    return ChannelScales(scale, zero)


def _constants(graph: ir.Graph, name: str, scales: ChannelScales) -> dict[str, ir.Value]:
    made = {
        what: _initializer(graph, f"{name}.{_WORD}.{what}", array.astype(np.float32)[None, :, None])
        for what, array in (("scale", scales.scale), ("zero", scales.zero))
    }
    bounds = {"least": 0.0, "most": float(LEVELS)}
    return made | {what: _scalar(graph, f"{_WORD}.{what}", bound) for what, bound in bounds.items()}


def _scalar(graph: ir.Graph, name: str, value: float) -> ir.Value:
    return _initializer(graph, name, np.array(value, np.float32))


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    return initializer(graph, name, from_array(name, array))


def _slice(graph: ir.Graph, value: ir.Value, begin: int, end: int, name: str) -> ir.Value:
    ends = [_initializer(graph, f"{_WORD}.at_{at}", np.array([at], np.int64)) for at in (begin, end)] + [
        _initializer(graph, f"{_WORD}.channels", np.array([3], np.int64))
    ]
    made = _op(graph, "Slice", [value, *ends], name, value)
    made.shape = ir.Shape([*list(value.shape or ())[:-1], end - begin])
    return made


def _op(graph: ir.Graph, op: str, inputs: list[ir.Value], name: str, like: ir.Value, **attributes: int) -> ir.Value:
    label = name if f".{_WORD}" in name or name.startswith(_WORD) else f"{name}.{_WORD}.{op.lower()}"
    node = ir.node(op, inputs, attributes or None, name=label)
    out = node.outputs[0]
    out.name, out.type = name, ir.TensorType(like.dtype or ir.DataType.FLOAT)
    out.shape = None if like.shape is None else ir.Shape(list(like.shape))
    graph.append(node)
    return out


def rounded_outputs(graph: ir.Graph) -> Iterator[ir.Value]:
    """K/V that a graph adds."""
    for value in graph.outputs:
        named = kv_names.parse(value.name)
        if named is not None and named.direction == kv_names.OUT:
            yield value
