"""Activations as small integers: QuantizeLinear and DequantizeLinear pairs on values, with one scale per tensor.

    x  ->  DequantizeLinear(QuantizeLinear(x, s, z), s, z)
    q = clip(round(x / s) + z, 0, 2^b - 1),  x' = (q - z) * s                (int16: -32768 .. 32767)

A pair is two nodes named `<value's base>.act16.quantize` and `….dequantize` (act8 for uint8). The graph stays float at
its interface and runs in ONNX Runtime as it is; an emitter reads the pairs and works on the integers. Widening an
8-bit tensor to 16 bits is exact: 65535 = 257 * 255, so s16 = s8 / 257 and z16 = 257 * z8. int16 is symmetric, z = 0.

What a plan asks for is kept as annotations (`ACTIVATIONS` of each linear, `RANGES` and `KV_TYPE` of the graph), so that
pairs can be taken out before weights change and put back with ranges measured anew. `SCORES` of Attention is one too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .module import constant, drop_unused_initializers
from .weights import from_array

MOVES = frozenset(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Identity"))
TYPES = {"uint8": ir.DataType.UINT8, "uint16": ir.DataType.UINT16, "int16": ir.DataType.INT16}
_ENDS = {"uint8": (0, 255), "uint16": (0, 65535), "int16": (-32768, 32767)}
_NARROWEST = 1e-6


@dataclass(frozen=True)
class Encoding:
    """How a tensor's integers are read: x = (q - zero_point) * scale."""

    dtype: str  # "uint8" | "uint16" | "int16"
    scale: float  # a float32
    zero_point: int

    @classmethod
    def over(cls, low: float, high: float, dtype: str) -> Encoding:
        """The encoding whose integers span [low, high] and zero; zero is met exactly."""
        low, high, top = min(low, 0.0), max(high, 0.0), _ENDS[dtype][1]
        if dtype == "int16":
            return cls(dtype, float(np.float32(max(-low, high, _NARROWEST) / top)), 0)
        scale = np.float32(max(high - low, _NARROWEST) / top)
        return cls(dtype, float(scale), min(top, round(-low / float(scale))))

    @property
    def bits(self) -> int:
        """8 or 16."""
        return 8 if self.dtype == "uint8" else 16

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the largest integer."""
        return _ENDS[self.dtype]

    @property
    def low(self) -> float:
        """The number that the least integer stands for."""
        return (self.ends[0] - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """The number that the largest integer stands for."""
        return (self.ends[1] - self.zero_point) * self.scale

    def widened(self) -> Encoding:
        """The same numbers and 65,281 more between them."""
        if self.bits == 16:
            return self
        return Encoding("uint16", float(np.float32(self.scale / 257)), 257 * self.zero_point)


@dataclass(frozen=True)
class Pair:
    """One value led through integers."""

    quantize: ir.Node
    dequantize: ir.Node
    encoding: Encoding


def encoding_of(node: ir.Node) -> Encoding | None:
    """The encoding of a QuantizeLinear or DequantizeLinear with one constant scale; None for anything else."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 3:
        return None
    scale, zero = constant(node.inputs[1]), constant(node.inputs[2])
    if scale is None or zero is None or scale.dims or constant(node.inputs[0]) is not None:
        return None
    name = next((name for name, dtype in TYPES.items() if dtype == zero.dtype), None)
    return None if name is None else Encoding(name, float(scale.numpy()), int(zero.numpy()))


def pairs(graph: ir.Graph) -> Iterator[Pair]:
    """Every pair of the graph in running order."""
    for node in list(graph):
        encoding = encoding_of(node) if node.op_type == "QuantizeLinear" else None
        if encoding is None:
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) == 1 and readers[0].op_type == "DequantizeLinear":
            yield Pair(node, readers[0], encoding)


def quantised(graph: ir.Graph) -> bool:
    """Whether activations of the graph are integers."""
    return next(pairs(graph), None) is not None


def insert(graph: ir.Graph, value: ir.Value, base: str, encoding: Encoding, readers: list[ir.Node] | None) -> ir.Value:
    """Lead `value` through integers, for `readers` only or for everyone (None); returns what they read now."""
    dtype, name = TYPES[encoding.dtype], f"{base}.act{encoding.bits}"
    arrays = {"scale": np.float32(encoding.scale), "zero_point": np.array(encoding.zero_point, dtype.numpy())}
    constants = []
    for part, array in arrays.items():
        held = from_array(f"{name}.{part}", np.asarray(array))
        constant_ = ir.Value(name=held.name, type=ir.TensorType(held.dtype), shape=ir.Shape(()), const_value=held)
        graph.register_initializer(constant_)
        constants.append(constant_)
    stored = ir.Value(name=f"{name}.integers", type=ir.TensorType(dtype), shape=value.shape)
    back = ir.Value(name=f"{name}.out", type=value.type, shape=value.shape)
    quantize = ir.Node("", "QuantizeLinear", [value, *constants], outputs=[stored], name=f"{name}.quantize")
    dequantize = ir.Node("", "DequantizeLinear", [stored, *constants], outputs=[back], name=f"{name}.dequantize")
    old = [(use.node, use.idx) for use in value.uses() if use.node is not quantize]
    producer = value.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
    for node, index in old:
        if readers is None or node in readers:
            node.replace_input_with(index, back)
    if readers is None and value.is_graph_output():  # the interface keeps its name
        value.name, back.name = f"{name}.in", value.name
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = back
    return back


def strip(graph: ir.Graph) -> dict[str, Encoding]:
    """Take all pairs out; what they were, by the name of the QuantizeLinear."""
    found = {}
    for pair in list(pairs(graph)):
        found[pair.quantize.name or ""] = pair.encoding
        value, back = pair.quantize.inputs[0], pair.dequantize.outputs[0]
        if value is None:
            raise ValueError(f"`{pair.quantize.name}` has no input")
        if back.is_graph_output():
            name = back.name
            for index, output in enumerate(graph.outputs):
                if output is back:
                    graph.outputs[index] = value
            back.name, value.name = f"{name}.stripped", name
        back.replace_all_uses_with(value)
        graph.remove([pair.dequantize, pair.quantize], safe=True)
    if found:
        drop_unused_initializers(graph)
    return found


def root(value: ir.Value) -> ir.Value:
    """The value whose numbers `value` holds in another place or order."""
    node = value.producer()
    while node is not None and node.op_type in MOVES and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value
