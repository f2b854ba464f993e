"""Pairs of integer activations make no part of their own, wherever the ops between them are placed."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.ir.activation_encodings import Encoding, insert, pairs
from edgec.compiler.ir.annotations import DEVICE
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle import oracle
from edgec.compiler.oracle.compare import random_feeds
from edgec.compiler.partition.parts import PartGraph, partition
from edgec.compiler.pipeline.pass_check import from_text

WIDE, NARROW = Encoding.over(-2.0, 2.0, "uint16"), Encoding.over(-2.0, 2.0, "uint8")
NAMES = ("a", "b", "c", "d", "e")
GRAPH = """<ir_version: 10, opset_import: ["" : 21]>
m (float[1,4] x, float[1,4] z) => (float[1,4] y, float[1,4] w) {
    [a] p = Tanh(x)
    [b] q = Sigmoid(p)
    [c] r = Tanh(q)
    [d] y = Mul(q, r)
    [e] w = Atan(y)
}"""


def placed(cpu: frozenset[str], paired: bool) -> Module:
    """`GRAPH` with the ops `cpu` on the CPU; every other node, pairs too, is on the NPU as after a `place` line."""
    module = from_text(GRAPH)
    module.level = Level.PLACED
    graph = module.main.graph
    if paired:
        for node in list(graph):
            value = node.outputs[0]
            if node.name == "b":  # one reader takes 8 bits, as an 8-bit linear does
                insert(graph, value, "b.narrow", NARROW, [use.node for use in value.uses()][:1])
            insert(graph, value, node.name or "", WIDE, None)
        graph.sort()
    for node in graph:
        DEVICE.set(node, "cpu" if node.name in cpu else "npu")
    return module


def run(found: PartGraph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = dict(feeds)
    for part in found.parts:
        graph = part.graphs["main"]
        values.update(oracle.run(graph, {v.name or "": values[v.name or ""] for v in graph.graph.inputs}))
    return values


CHOICES = [frozenset(chosen) for count in range(6) for chosen in itertools.combinations(NAMES, count)]


@pytest.mark.parametrize("cpu", CHOICES, ids=lambda cpu: "".join(sorted(cpu)) or "none")
def test_the_parts_are_those_of_the_ops(cpu: frozenset[str]) -> None:
    """As many parts on the same devices as without pairs, the numbers of the graph as it was."""
    module = placed(cpu, paired=True)
    feeds = random_feeds(module.main.graph)
    expected = oracle.run(module.main, feeds)
    plain, found = partition(placed(cpu, paired=False), "npu"), partition(module, "npu")
    assert [part.device for part in found.parts] == [part.device for part in plain.parts]
    made = run(found, feeds)
    assert all(np.array_equal(expected[name], made[name]) for name in expected)


@pytest.mark.parametrize("cpu", CHOICES, ids=lambda cpu: "".join(sorted(cpu)) or "none")
def test_what_enters_and_leaves_the_npu_is_encoded(cpu: frozenset[str]) -> None:
    """The NPU's float inputs, but the graph's own, are rounded there; what it makes for others is the end of a pair."""
    for part in partition(placed(cpu, paired=True), "npu").parts:
        graph = part.graphs["main"].graph
        if part.device != "npu":
            continue
        rounded = {pair.quantize.inputs[0] for pair in pairs(graph)}
        backs = {pair.dequantize.outputs[0] for pair in pairs(graph)}
        for value in graph.inputs:
            assert value.name in ("x", "z") or value in rounded
        assert all(value in backs for value in graph.outputs)


def test_a_pair_that_a_line_has_placed_stays_there() -> None:
    module = placed(frozenset("e"), paired=True)
    for node in module.main.graph:
        if (node.name or "").startswith("a.act16"):
            DEVICE.set(node, "cpu")
    assert [part.device for part in partition(module, "npu").parts] == ["npu", "cpu", "npu", "cpu"]


def test_without_pairs_nothing_is_placed() -> None:
    module = placed(frozenset("bd"), paired=False)
    before = {node.name: DEVICE.get(node) for node in module.main.graph}
    partition(module, "npu")
    assert {node.name: DEVICE.get(node) for node in module.main.graph} == before
    assert isinstance(module.main.graph, ir.Graph)
