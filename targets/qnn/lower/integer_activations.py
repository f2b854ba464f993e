"""Integer activations of a target-level graph: every float tensor led through QuantizeLinear and DequantizeLinear.

    x u16 -> DQ -> op -> Q -> y u16          what HTP takes as one op on integers
    mask = [-M, 0],  masked scores = [low - M, high],  M = the widest range of scores + 20        e^-20 is no weight

While a graph is lowered, values get encodings: from the module's pairs, and from the rules for what they make inside
(scores, softmax, the products of rotary embedding). What only moves values has the encoding of what it moves. `finish`
then writes the pairs. Inputs and outputs of the graph are integers. Constants (gains, biases, tables) are uint16 over
their own range. Products take 8 bits as they come; every other op gets them widened to 16, which is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from ....compiler.ir.activation_encodings import TYPES, Encoding
from ....compiler.ir.annotations import SCORES, Transform
from ....compiler.ir.module import constant
from ....compiler.ir.weights import DryWeight, Weight, derive, from_array
from .builder import Builder, static_shape

MOVES = frozenset(("Reshape", "Transpose", "Slice", "Concat"))
_MASKED = 20.0


def widest_scores(graphs: Iterable[ir.Graph]) -> float:
    """The widest range of the scores in any of these graphs."""
    found = (SCORES.get(node) for graph in graphs for node in graph)
    return max((ends[1] - ends[0] for ends in found if ends is not None), default=0.0)


class NoRange(ValueError):
    """A value among integers has none: a graph that others quantised leaves some in floats."""


class Integers:
    """Encodings of the values of one graph in the making.

    `span`: the widest range of scores in the whole model. Its parts read one mask, and Genie opens no dialog where that
    has another scale in each.
    """

    def __init__(self, graph: ir.Graph, span: float | None = None) -> None:
        self.masked = (widest_scores([graph]) if span is None else span) + _MASKED
        self._encodings: dict[ir.Value, Encoding] = {}
        self._converts: set[ir.Node] = set()  # an Identity: the same numbers under another encoding
        self._stored: dict[ir.Value, ir.Value] = {}  # a value -> its integers
        self._read: dict[tuple[ir.Value, Encoding], ir.Value] = {}  # a value under an encoding -> floats again

    def of(self, value: ir.Value) -> Encoding | None:
        """The encoding of a value, its own or that of what it moves."""
        if value in self._encodings:
            return self._encodings[value]
        node = value.producer()
        if node is None or node.op_type not in MOVES or node.inputs[0] is None:
            return None
        return self.of(node.inputs[0])

    def known(self, value: ir.Value) -> Encoding:
        """The encoding of `value`; NoRange without one."""
        found = self.of(value)
        if found is None:
            raise NoRange(f"`{value.name}` has no range")
        return found

    def encode(self, build: Builder, value: ir.Value, encoding: Encoding) -> ir.Value:
        """`value` under `encoding`: itself, or a converted copy when it has another one."""
        found = self.of(value)
        if found == encoding:
            return value
        if found is None:
            self._assign(value, encoding)
            return value
        made = build.op("Identity", value, shape=static_shape(value), step="convert")
        node = made.producer()
        if node is not None:
            self._converts.add(node)
        self._encodings[made] = encoding
        return made

    def _assign(self, value: ir.Value, encoding: Encoding) -> None:
        """To what is moved as well, as far as that has none."""
        self._encodings[value] = encoding
        node = value.producer()
        if node is not None and node.op_type in MOVES:
            for source in node.inputs if node.op_type == "Concat" else node.inputs[:1]:
                if source is not None and self.of(source) is None:
                    self._assign(source, encoding)

    def finish(self, build: Builder, outputs: Sequence[tuple[str, ir.Value]]) -> tuple[ir.Model, dict[str, Encoding]]:
        """The model on integers, and the encodings of its inputs and outputs."""
        self._stored.update({value: value for value in build.inputs if value.dtype == ir.DataType.FLOAT})
        nodes = build.take_nodes()
        for value in (node.outputs[0] for node in nodes):
            found = self.of(value)  # now: what moves values is about to read others
            if found is not None:
                self._encodings[value] = found
        for node in nodes:
            self._node(build, node)
        named = [(name, self._output(build, name, value)) for name, value in outputs]
        floats = [value for value in build.inputs if value in self._stored]
        for value in floats:
            value.type = ir.TensorType(TYPES[self.known(value).dtype])
        encodings = {value.name or "": self.known(value) for value in floats}
        encodings |= {name: self.known(value) for name, value in outputs}
        return build.finish(named), encodings

    def _node(self, build: Builder, node: ir.Node) -> None:
        output = node.outputs[0]
        if node.op_type == "DequantizeLinear" or output.dtype != ir.DataType.FLOAT:  # a weight, or no float at all
            build.append(node)
            return
        encoding = self.known(output)
        if node in self._converts and node.inputs[0] is not None:
            source = self._floats(build, node.inputs[0], self.known(node.inputs[0]))
            self._stored[output] = self._quantize(build, source, encoding, node.name or "")
            return
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.FLOAT:
                node.replace_input_with(index, self._input(build, node, value, encoding))
        build.append(node)
        self._stored[output] = self._quantize(build, output, encoding, node.name or "")

    def _input(self, build: Builder, node: ir.Node, value: ir.Value, made: Encoding) -> ir.Value:
        """`value` as `node`, whose output is encoded as `made`, reads it."""
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            return value  # a weight
        held = constant(value)
        if held is not None:
            encoding = made if node.op_type == "Gather" else _encoding_of_constant(held)
            return self._constant(build, value, held, encoding)
        encoding = self.known(value)
        keeps = node.op_type in MOVES or (node.op_type == "MatMul" and not self._narrower(node, value, made))
        return self._floats(build, value, encoding if keeps else encoding.widened())

    def _narrower(self, node: ir.Node, value: ir.Value, made: Encoding) -> bool:
        """Whether a product reads fewer bits on its left side than it makes, which HTP has not."""
        return value is node.inputs[0] and made.dtype == "uint16" and self.known(value).dtype == "uint8"

    def _floats(self, build: Builder, value: ir.Value, encoding: Encoding) -> ir.Value:
        """`value` read back from integers, widened if `encoding` says so; one pair for all readers."""
        if (value, encoding) not in self._read:
            name, own = value.name or "", self.known(value)
            stored = self._stored[value]
            if encoding != own:
                stored = self._quantize(build, self._floats(build, value, own), encoding, f"{name}/wide")
            self._read[value, encoding] = self._dequantize(build, stored, encoding, name)
        return self._read[value, encoding]

    def _quantize(self, build: Builder, value: ir.Value, encoding: Encoding, name: str) -> ir.Value:
        dtype = TYPES[encoding.dtype]
        return _append(build, "QuantizeLinear", value, encoding, dtype, f"{name}/quantize")

    def _dequantize(self, build: Builder, value: ir.Value, encoding: Encoding, name: str) -> ir.Value:
        return _append(build, "DequantizeLinear", value, encoding, ir.DataType.FLOAT, f"{name}/dequantize")

    def _constant(self, build: Builder, value: ir.Value, held: Weight, encoding: Encoding) -> ir.Value:
        if (value, encoding) not in self._read:
            name = f"{value.name}.{encoding.dtype}"
            made = build.store.get(held, f"{encoding}", lambda: _stored_constant(name, held, encoding))
            integers = build.weight(made, name)
            self._read[value, encoding] = self._dequantize(build, integers, encoding, name)
        return self._read[value, encoding]

    def _output(self, build: Builder, name: str, value: ir.Value) -> ir.Value:
        """The integers of an output; a copy where an input or another output has them already."""
        stored = self._stored[value]
        if stored.producer() is None or stored.metadata_props.get("output"):
            stored = self._quantize(build, self._floats(build, value, self.known(value)), self.known(value), name)
        return stored


def _append(build: Builder, kind: str, value: ir.Value, encoding: Encoding, dtype: ir.DataType, name: str) -> ir.Value:
    """One half of a pair at the end of the graph."""
    scale = build.constant(f"const.scale.{encoding.scale!r}", np.array(encoding.scale, np.float32))
    stored = np.array(encoding.zero_point, TYPES[encoding.dtype].numpy())
    zero = build.constant(f"const.zero.{encoding.dtype}.{encoding.zero_point}", stored)
    name = build.fresh(name)
    output = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
    build.append(ir.Node("", kind, [value, scale, zero], outputs=[output], name=name))
    return output


def _encoding_of_constant(held: Weight) -> Encoding:
    if isinstance(held, DryWeight):
        return Encoding.over(-1.0, 1.0, "uint16")
    low = high = 0.0
    for _, block in held.blocks() if held.dims else [(0, held.numpy())]:
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    return Encoding.over(low, high, "uint16")


def _stored_constant(name: str, held: Weight, encoding: Encoding) -> Weight:
    """`held` as integers; values beyond the range become its ends."""
    dtype = TYPES[encoding.dtype]

    def integers(array: np.ndarray) -> np.ndarray:
        q = np.rint(array.astype(np.float32) / np.float32(encoding.scale)) + encoding.zero_point
        return np.clip(q, *encoding.ends).astype(dtype.numpy())

    if not held.dims:
        return from_array(name, integers(held.numpy()))
    return derive(
        name, dtype, held.dims, lambda a, b: integers(held.rows(a, b)), held, Transform.QUANTISE, encoding.dtype
    )
