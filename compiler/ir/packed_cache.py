"""A K/V cache of 4 bits a value: each position of a K/V head brings its own scales, one for each group of 32 channels.

    base     y = x - f o,  f in 0, 1: whichever has the smaller range
    scale    c = ceil(10 log2((max - min) / 15)) + 180 in 0..255,  s = 2^((c - 180) / 10)
    zero     z = b / 4 - 8,  b = round(4 (8 - min / s)) in 0..127: a range that begins or ends up to 8 steps beside 0
    value    q = clip(round(y / s + z), 0, 15),  read as (q - z) * s + f o
    bytes    [channels d (low half) and d + D/2 (high half)]  D/2, [c of each group]  D/32, [2 b + f of each]  D/32

o is what the first position of a text holds, whatever its token is: most of the attention goes there, with keys unlike
all others (Xiao et al. 2023, StreamingLLM, arXiv 2309.17453). Rounded as the others, that one row decides what a cache
of 4 bits costs, by luck; beside o it is as exact as it is constant (Hooper et al. 2024, KVQuant, arXiv 2401.18079, keep
it as it is).
Channels of keys differ far more than positions do, so that keys are balanced against queries before they are rounded
(Xiao et al. 2022, SmoothQuant, arXiv 2211.10438, between keys and queries), and nothing else changes:

    k' = (k - m) * w,  q' = q / w        q' k'^T = q k^T - q m^T, and softmax forgets what all positions share

m is the mean of each channel, w = (E[q^2] / E[(k - m)^2])^(1/4). The module's cache holds k' and v on their grid, so
that its perplexity has the cost in it; what is emitted holds the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from . import kv_names
from .module import initializer
from .read_instead import read_instead
from .weights import from_array

LEVELS = 15
GROUP = 32  # channels; a head of another width is one group
_STEPS, _MIDDLE = 10, 180  # of a scale's byte: steps an octave, and the byte of 1
_PARTS, _BESIDE = 4, 8  # of a step, in a zero point; steps that a range may begin or end beside 0
_MOST = 127  # of a zero point's number
_LEAST = 1e-9  # of a range
_PAST = 4  # the input of Attention that past keys are, values behind them
_WORD = "kv4"


@dataclass(frozen=True)
class Balance:
    """Mean [G,D] and weight [G,D] of the channels of keys, and the first position's keys [G,D] and values [G,D]."""

    mean: np.ndarray
    weight: np.ndarray
    first_key: np.ndarray
    first_value: np.ndarray

    @property
    def first_balanced(self) -> np.ndarray:
        """The first position's keys [G,D] as the cache holds them."""
        return (self.first_key - self.mean) * self.weight


def row_bytes(width: int) -> int:
    """Bytes of one position of a head of `width` channels."""
    return width // 2 + 2 * groups_of(width)


def balance_keys(graph: ir.Graph, key: ir.Value, by: Balance) -> None:
    """Balance the keys `key` [B,G,S,D] that the graph adds with the queries [B,H,S,D] that are multiplied by them.

    Nodes are appended: `graph` has to be sorted when all is done.
    """
    node = next(use.node for use in key.uses() if use.node.op_type == "Attention" and use.idx == 1)
    query = node.inputs[0]
    if query is None or query.shape is None or not isinstance(query.shape[1], int):
        raise ValueError(f"`{node.name}` has an open number of heads")
    build, name, plain = _Builder(graph), key.name or "", key
    plain.name = f"{name}.{_WORD}.plain"
    moved = build.op("Sub", plain, build.held(f"{name}.{_WORD}.mean", by.mean[None, :, None]))
    scaled = build.op("Mul", moved, build.held(f"{name}.{_WORD}.weight", by.weight[None, :, None]))
    _stand_in(graph, plain, scaled, name, keep=moved.producer())
    back = np.repeat(1 / by.weight, query.shape[1] // by.weight.shape[0], axis=0)
    node.replace_input_with(0, build.op("Mul", query, build.held(f"{name}.{_WORD}.inverse", back[None, :, None])))


def round_added(graph: ir.Graph, value: ir.Value, base: np.ndarray) -> None:
    """Let the graph output `value` [B,G,S,D], and all that reads it, have the values of the grid; to be sorted, too.

    `base` [G,D]: o, what the first position of a text holds.
    """
    build, name, width, plain = _Builder(graph), value.name or "", _width(value), value
    plain.name = f"{name}.{_WORD}.float"
    split = [groups_of(width), width // groups_of(width)]
    groups, first = build.reshape(plain, split), build.held(f"{name}.{_WORD}.base", base.reshape(1, -1, 1, *split))
    least, spread = build.range(groups)
    beside, own = build.range(build.op("Sub", groups, first))
    flag = build.chosen(build.op("Less", own, spread, dtype=ir.DataType.BOOL), name=f"{name}.{_WORD}.flag")
    least = build.op("Add", least, build.op("Mul", flag, build.op("Sub", beside, least)))
    spread = build.op("Max", build.op("Min", spread, own), build.number(_LEAST))
    octaves = build.op("Mul", build.op("Log", spread), build.number(_STEPS / math.log(2)))
    steps = build.op("Add", octaves, build.number(_MIDDLE - _STEPS * math.log2(LEVELS)))
    code = build.op(
        "Clip", build.op("Ceil", steps), build.number(0.0), build.number(255.0), name=f"{name}.{_WORD}.code"
    )
    scale = build.scale(code)
    far = build.op("Sub", build.op("Div", least, scale), build.number(float(_BESIDE)))
    number = build.op("Round", build.op("Mul", far, build.number(-float(_PARTS))))
    number = build.op("Clip", number, build.number(0.0), build.number(float(_MOST)), name=f"{name}.{_WORD}.zero")
    moved, added = build.zero(number), build.op("Mul", flag, first, like=groups)
    near = build.op("Round", build.op("Add", build.op("Div", build.op("Sub", groups, added), scale), moved))
    q = build.op("Clip", near, build.number(0.0), build.number(float(LEVELS)), name=f"{name}.{_WORD}.q")
    back = build.op("Add", build.op("Mul", build.op("Sub", q, moved), scale), added)
    _stand_in(graph, plain, build.reshape(back, [width]), name, keep=groups.producer())


def pack_cache(graph: ir.Graph) -> bool:
    """Give the caches of a graph whose added values are on the grid the form of bytes; whether it has any.

    Past and new rows are joined as bytes, and unpacked together: so nothing of a layer can be unpacked before the layer
    runs, which an engine that orders ops by their inputs alone would do for all layers at once.
    """
    packed = {value.name or "": _pack_added(graph, value) for value in list(rounded_outputs(graph))}
    for value in list(graph.inputs):
        named = kv_names.parse(value.name)
        if named is not None:
            _unpack_past(graph, value, packed[kv_names.format(named.kind, named.layer, kv_names.OUT)])
    graph.sort()
    return bool(packed)


def unpacked(stored: np.ndarray, count: int) -> np.ndarray:
    """Bytes [.., D/2 + 2 n] with `count` groups n as the float32 values [.., D] that attention reads, keys balanced.

    Where a group lies beside the first position's values, these, which only the graph knows, are left out.
    """
    half = stored.shape[-1] - 2 * count
    q = np.concatenate([stored[..., :half] & LEVELS, stored[..., :half] >> 4], axis=-1).astype(np.float32)
    code, byte = (stored[..., at : at + count, None].astype(np.float32) for at in (half, half + count))
    scale, zero = np.exp2((code - _MIDDLE) / _STEPS), byte // 2 / _PARTS - _BESIDE
    groups = q.reshape(*q.shape[:-1], count, -1)
    return ((groups - zero) * scale).reshape(q.shape).astype(np.float32)


def rounded_outputs(graph: ir.Graph) -> Iterator[ir.Value]:
    """K/V that a graph adds."""
    for value in graph.outputs:
        named = kv_names.parse(value.name)
        if named is not None and named.direction == kv_names.OUT:
            yield value


def _pack_added(graph: ir.Graph, value: ir.Value) -> ir.Value:
    build, name, width = _Builder(graph), value.name or "", _width(value)
    made = {node.outputs[0].name: node.outputs[0] for node in graph}
    try:
        q, code, zero, flag = (made[f"{name}.{_WORD}.{what}"] for what in ("q", "code", "zero", "flag"))
    except KeyError:
        raise ValueError(f"`{name}` is not rounded to 4 bits") from None
    flat = build.reshape(q, [width])
    low, high = build.slice(flat, 0, width // 2), build.slice(flat, width // 2, width)
    both = build.op("Add", low, build.op("Mul", high, build.number(LEVELS + 1.0)))
    zero = build.op("Add", build.op("Add", zero, zero), flag)
    scales = [build.reshape(one, [groups_of(width)]) for one in (code, zero)]
    row = build.op("Concat", both, *scales, axis=-1, last=row_bytes(width))
    packed = build.op("Cast", row, to=int(ir.DataType.UINT8), dtype=ir.DataType.UINT8)
    value.name, packed.name = f"{name}.{_WORD}.floats", name
    graph.outputs[list(graph.outputs).index(value)] = packed
    return packed


def _unpack_past(graph: ir.Graph, value: ir.Value, added: ir.Value) -> None:
    build, name, width = _Builder(graph), value.name or "", _width(value)
    shape = ir.Shape([*list(value.shape or ())[:-1], row_bytes(width)])
    packed = ir.Value(name=name, type=ir.TensorType(ir.DataType.UINT8), shape=shape)
    value.name = f"{name}.{_WORD}.replaced"
    graph.inputs[list(graph.inputs).index(value)] = packed
    (use,) = value.uses()
    node = use.node
    present = node.outputs[1 + use.idx - _PAST]
    if node.op_type != "Attention" or present.uses() or node.attributes.get_int("is_causal", 0):
        value.replace_all_uses_with(build.floats(packed, width, added))
        return
    joined = build.op("Concat", packed, added, axis=2)
    joined.shape = ir.Shape([*list(shape)[:2], list(present.shape or (None,) * 3)[2], shape[-1]])
    node.replace_input_with(use.idx, None)
    node.replace_input_with(1 + use.idx - _PAST, build.floats(joined, width, added))
    if not any(node.inputs[_PAST:]):
        node.resize_inputs(_PAST)
        node.resize_outputs(1)


class _Builder:
    """Appends ops to a graph; every value takes batch, heads and positions from the one it is made of."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._names = {node.name for node in graph} | {node.outputs[0].name for node in graph}

    def op(
        self,
        op: str,
        *inputs: ir.Value,
        name: str = "",
        last: int = 0,
        dtype: ir.DataType | None = None,
        like: ir.Value | None = None,
        **words: int,
    ) -> ir.Value:
        """An op's output, shaped as `like` or its first input; `last`: its size along the last axis, if another."""
        first = like or inputs[0]
        label = name or f"{_stem(first.name or '')}.{_WORD}.{op.lower()}"
        while label in self._names:
            label += "_"
        self._names.add(label)
        node = ir.node(op, list(inputs), words or None, name=label)
        out = node.outputs[0]
        out.name, out.type = label, ir.TensorType(dtype or first.dtype or ir.DataType.FLOAT)
        dims = list(first.shape or ())
        out.shape = ir.Shape([*dims[:-1], last] if last else dims)
        self._graph.append(node)
        return out

    def reshape(self, value: ir.Value, sizes: Sequence[int]) -> ir.Value:
        """[B,G,S, ..] as [B,G,S, *sizes]."""
        shape = self.held(f"{_WORD}.as_{'_'.join(map(str, sizes))}", np.array([0, 0, 0, *sizes], np.int64))
        made = self.op("Reshape", value, shape)
        made.shape = ir.Shape([*list(value.shape or ())[:3], *sizes])
        return made

    def slice(self, value: ir.Value, begin: int, end: int) -> ir.Value:
        """Channels from `begin` to `end`."""
        ends = [self.held(f"{_WORD}.at_{at}", np.array([at], np.int64)) for at in (begin, end)]
        return self.op("Slice", value, *ends, self.held(f"{_WORD}.axis", np.array([-1], np.int64)), last=end - begin)

    def range(self, groups: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Least value and range of each group; the end of a range that is farther from 0 comes nearer."""
        axis = self.held(f"{_WORD}.axis", np.array([-1], np.int64))
        most, least = (self.op(reduce, groups, axis, last=1, keepdims=1) for reduce in ("ReduceMax", "ReduceMin"))
        near = self.number(_BESIDE / (LEVELS + _BESIDE))
        most, least = (
            self.op("Max", most, self.op("Mul", least, near)),
            self.op("Min", least, self.op("Mul", most, near)),
        )
        return least, self.op("Sub", most, least)

    def chosen(self, which: ir.Value, name: str) -> ir.Value:
        """1 where it is, 0 elsewhere."""
        return self.op("Cast", which, name=name, to=int(ir.DataType.FLOAT), dtype=ir.DataType.FLOAT)

    def scale(self, code: ir.Value) -> ir.Value:
        """Of its byte."""
        octave = math.log(2) / _STEPS
        powers = self.op("Mul", self.op("Sub", code, self.number(float(_MIDDLE))), self.number(octave))
        return self.op("Exp", powers)

    def zero(self, number: ir.Value) -> ir.Value:
        """Of its number."""
        return self.op("Sub", self.op("Mul", number, self.number(1 / _PARTS)), self.number(float(_BESIDE)))

    def floats(self, packed: ir.Value, width: int, added: ir.Value) -> ir.Value:
        """Rows of bytes as values; `added`: the new rows of that cache, whose base it shares."""
        half, count = width // 2, groups_of(width)
        row = self.op("Cast", packed, to=int(ir.DataType.FLOAT), dtype=ir.DataType.FLOAT)
        both, code = self.slice(row, 0, half), self.slice(row, half, half + count)
        zero = self.slice(row, half + count, half + 2 * count)
        high = self.op("Floor", self.op("Mul", both, self.number(1 / (LEVELS + 1))))
        low = self.op("Sub", both, self.op("Mul", high, self.number(LEVELS + 1.0)))
        q = self.reshape(self.op("Concat", low, high, axis=-1, last=width), [count, width // count])
        zero = self.reshape(zero, [count, 1])
        number = self.op("Floor", self.op("Mul", zero, self.number(0.5)))
        flag, moved = self.op("Sub", zero, self.op("Add", number, number)), self.zero(number)
        back = self.op("Mul", self.op("Sub", q, moved), self.scale(self.reshape(code, [count, 1])))
        first = self._graph.initializers[f"{added.name}.{_WORD}.base"]
        return self.reshape(self.op("Add", back, self.op("Mul", flag, first, like=back)), [width])

    def number(self, value: float) -> ir.Value:
        """A constant."""
        return self.held(f"{_WORD}.number_{value:.9g}", np.array(value, np.float32))

    def held(self, name: str, array: np.ndarray) -> ir.Value:
        """A constant of the graph, made once."""
        known = self._graph.initializers.get(name)
        if known is not None:
            return known
        array = array if array.dtype == np.int64 else array.astype(np.float32)
        return initializer(self._graph, name, from_array(name, array))


def _stem(name: str) -> str:
    return name.partition(f".{_WORD}")[0]


def _stand_in(graph: ir.Graph, old: ir.Value, new: ir.Value, name: str, keep: ir.Node | None) -> None:
    """Let `new`, called `name`, be what is read and given out in the place of `old`, which `keep` alone reads on."""
    new.name = name
    read_instead(graph, old, new, (keep,))


def _width(value: ir.Value) -> int:
    """Channels of a head."""
    shape = list(value.shape or ())
    if not shape or not isinstance(shape[-1], int):
        raise ValueError(f"`{value.name}` has an open number of channels")
    return shape[-1]


def groups_of(width: int) -> int:
    """Groups of a head of `width` channels."""
    return width // GROUP if width % GROUP == 0 else 1
