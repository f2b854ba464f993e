"""Pairs of integer activations go where the value they round is made and read, so that no part exists for a pair alone.

    npu: x -> [Q DQ] -> cpu: op                       the pair stays: the NPU's output is integers
    cpu: op -> [Q DQ] -> npu: y                       the pair stays with the reader: the NPU's input is integers
    cpu: op -> [Q DQ] -> cpu: y, or the model's end   the pair goes along to the CPU
    cpu: op -> [Q DQ] -> both                         each reader's device has the pair

A part on the NPU that reads what a pair of an earlier part has rounded rounds it once more, to the same integers: so it
knows how they are read. A pair that a line has placed away from the deploy line's device is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ..ir.activation_encodings import Pair, encoding_of, insert, pairs
from ..ir.annotations import DEVICE
from ..ir.module import Module
from .cut_by_placement import Cut


def pairs_follow(module: Module, deploy_device: str) -> None:
    """Place the pairs behind ops that are not on `deploy_device`; one that both devices read is doubled."""
    for model in module.graphs.values():
        if any(DEVICE.get(node) not in (None, deploy_device) for node in model.graph):
            _Placing(model.graph, deploy_device).run()


def round_again(cut: Cut, names: Mapping[str, str], parts: Sequence[ir.Model], deploy_device: str) -> None:
    """Put a pair behind every input of a part on `deploy_device` that is the end of another part's pair."""
    for value, readers in cut.crossing.items():
        producer = value.producer()
        encoding = None if producer is None else encoding_of(producer)
        if producer is None or encoding is None or producer.op_type != "DequantizeLinear":
            continue
        for reader in readers:
            if cut.placements[reader].device == deploy_device:
                graph = parts[reader].graph
                given = next(one for one in graph.inputs if one.name == names[value.name or ""])
                insert(graph, given, f"{given.name}.again", encoding, None)


class _Placing:
    def __init__(self, graph: ir.Graph, deploy_device: str) -> None:
        self._graph, self._home = graph, deploy_device
        self._pairs = list(pairs(graph))
        self._by_back = {pair.dequantize: pair for pair in self._pairs}

    def run(self) -> None:
        for pair in reversed(self._pairs):  # what reads a pair may be another pair: the last is placed first
            maker = self._maker(pair)
            placed = {self._device(pair.quantize), self._device(pair.dequantize)} != {self._home}
            if maker is not None and not placed and self._device(maker) != self._home:
                self._place(pair, self._device(maker))

    def _device(self, node: ir.Node) -> str:
        return DEVICE.get(node) or self._home

    def _maker(self, pair: Pair) -> ir.Node | None:
        """The op whose value is rounded, behind other pairs."""
        value = pair.quantize.inputs[0]
        node = None if value is None else value.producer()
        while node in self._by_back:
            value = self._by_back[node].quantize.inputs[0]
            node = None if value is None else value.producer()
        return node

    def _place(self, pair: Pair, device: str) -> None:
        back = pair.dequantize.outputs[0]
        there = [use for use in back.uses() if self._device(use.node) == device]
        here = [use for use in back.uses() if self._device(use.node) != device]
        if not there and here and not back.is_graph_output():
            return
        if not here:
            DEVICE.set(pair.quantize, device)
            DEVICE.set(pair.dequantize, device)
            return
        copy = self._copy(pair)
        for use in here:
            use.node.replace_input_with(use.idx, copy)
        DEVICE.set(pair.quantize, device)
        DEVICE.set(pair.dequantize, device)

    def _copy(self, pair: Pair) -> ir.Value:
        """The same rounding once more, for readers on the deploy line's device."""
        made = []
        read = list(pair.quantize.inputs)
        for node in (pair.quantize, pair.dequantize):
            old, name = node.outputs[0], f"{node.name}.{self._home}"
            value = ir.Value(name=f"{old.name}.{self._home}", type=old.type, shape=old.shape)
            made.append(
                ir.Node(node.domain, node.op_type, read, list(node.attributes.values()), outputs=[value], name=name)
            )
            read = [value, *pair.dequantize.inputs[1:]]
        self._graph.insert_after(pair.dequantize, made)
        return made[-1].outputs[0]
