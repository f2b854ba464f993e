"""Parts form no circle, run in order, and together compute the same bits; boundaries have readable names."""

from __future__ import annotations

import itertools
import time

import networkx as nx
import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.emit.part import Part
from edgec.compiler.ir.annotations import DEVICE, SHARD
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle import oracle
from edgec.compiler.oracle.compare import Feeds, random_feeds
from edgec.compiler.partition.copied_nodes import copied_nodes
from edgec.compiler.partition.parts import PartGraph, partition
from edgec.compiler.partition.placement import Placement, placements
from edgec.compiler.pipeline.pass_check import from_text
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.pipeline.run_steps import run_pipeline
from edgec.passes.bucket import Bucket
from edgec.passes.place import Place
from edgec.passes.quantize import Quantize
from hypothesis import given, settings
from hypothesis import strategies as st

SIZE = 4
DEVICES = [Placement("cpu"), Placement("npu")]
SHARDS = [Placement(device, shard) for device in ("cpu", "npu") for shard in (0, 1)]


@st.composite
def placed_graphs(draw: st.DrawFn, among: list[Placement], most: int = 14) -> ir.Model:
    """A random graph of matrix products and sums over two inputs, with random placements and several outputs."""
    count = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["B", SIZE])
    inputs = [ir.Value(name=f"in{i}", type=kind, shape=shape) for i in range(2)]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 24}, name="main")
    values = list(inputs)
    for i in range(count):
        op = draw(st.sampled_from(["MatMul", "Add", "Tanh", "Split"]))
        first = draw(st.sampled_from(values))
        if op == "MatMul":
            weight = from_array(f"w{i}", rng.standard_normal((SIZE, SIZE)).astype(np.float32))
            value = ir.Value(name=f"w{i}", type=kind, shape=weight.shape, const_value=weight)
            graph.register_initializer(value)
            operands = [first, value]
        else:
            operands = [first, draw(st.sampled_from(values))] if op == "Add" else [first]
        if op == "Split":  # two outputs: an op whose values may go different ways
            node = ir.node("Split", operands, {"axis": 1, "num_outputs": 2}, num_outputs=2, name=f"n{i}")
            join = ir.node("Concat", [node.outputs[1], node.outputs[0]], {"axis": 1}, name=f"n{i}.join")
            made = [node, join]
        else:
            made = [ir.node(op, operands, name=f"n{i}")]
        for node in made:
            pin(node, draw(st.sampled_from(among)))
            for k, output in enumerate(node.outputs):
                output.name, output.type = f"{node.name}.out{k}", kind
                output.shape = ir.Shape(["B", SIZE // 2]) if node.op_type == "Split" else shape
            graph.append(node)
        values.append(made[-1].outputs[0])
    chosen = draw(st.lists(st.sampled_from(values[2:]), min_size=1, max_size=3, unique_by=id))
    dead_ends = [value for value in values[2:] if not value.uses() and not any(value is c for c in chosen)]
    graph.outputs.extend([*chosen, *dead_ends])
    return ir.Model(graph, ir_version=11)


def run_parts(parts: list[Part], bucket: str, feeds: Feeds) -> Feeds:
    """Each part sees what the feeds and the parts before it gave, and nothing else."""
    known = dict(feeds)
    for part in parts:
        model = part.graphs[bucket]
        known.update(oracle.run(model, {value.name or "": known[value.name or ""] for value in model.graph.inputs}))
    return known


def pin(node: ir.Node, placement: Placement) -> None:
    DEVICE.set(node, placement.device)
    if placement.shard:
        SHARD.set(node, placement.shard)


def quotient(found: PartGraph) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(part.name for part in found.parts)
    graph.add_edges_from((transfer.maker, transfer.reader) for transfer in found.transfers)
    return graph


@pytest.mark.parametrize("among", [DEVICES, SHARDS], ids=["devices", "shards"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_random_graphs(among: list[Placement], data: st.DataObject) -> None:
    model = data.draw(placed_graphs(among))
    module = Module("m", {"main": model}, Level.PLACED)
    found = partition(module, "npu")
    feeds = random_feeds(model.graph, seed=1)
    expected, made = oracle.run(model, feeds), run_parts(found.parts, "main", feeds)
    assert all(np.array_equal(expected[name], made[name]) for name in expected)
    assert [part.name for part in found.parts] == [f"m.{part.device}{i}" for i, part in enumerate(found.parts)]
    assert list(found.schedule().problems()) == []
    check_members(module, found)
    check_transfers(found)
    check_nothing_to_merge(found)


def check_members(module: Module, found: PartGraph) -> None:
    """Every node is in the one part of its placement, or copied to its readers; a part's nodes keep their order."""
    nodes = list(module.main.graph)
    where = placements(module, nodes, "npu")
    copied = copied_nodes(nodes, where, "npu")
    held = [[node.name for node in part.graphs["main"].graph] for part in found.parts]
    order = {node.name: i for i, node in enumerate(nodes)}
    assert all(names == sorted(names, key=order.__getitem__) for names in held)
    for i, node in enumerate(nodes):
        parts = [part for part, names in zip(found.parts, held, strict=True) if node.name in names]
        if i in copied:
            assert parts
        else:
            assert [(part.device, part.shard, part.target) for part in parts] == [where[i]]


def check_transfers(found: PartGraph) -> None:
    """What parts read of each other is what the transfers say, and they close no circle."""
    inputs = {(v.name, part.name) for part in found.parts for v in part.graphs["main"].graph.inputs}
    outputs = {(v.name, part.name) for part in found.parts for v in part.graphs["main"].graph.outputs}
    names = {name for name, _part in outputs}
    assert {(name, part) for name, part in inputs if name in names} == {(t.tensor, t.reader) for t in found.transfers}
    assert {(t.tensor, t.maker) for t in found.transfers} <= outputs
    assert nx.is_directed_acyclic_graph(quotient(found))


def check_nothing_to_merge(found: PartGraph) -> None:
    """Any two parts of one placement have a third on a path between them."""
    graph = quotient(found)
    for a, b in itertools.combinations(found.parts, 2):
        if (a.device, a.shard) == (b.device, b.shard):
            merged = nx.contracted_nodes(graph, a.name, b.name, self_loops=False)
            assert not nx.is_directed_acyclic_graph(merged)


@given(model=placed_graphs(DEVICES, most=20))
@settings(max_examples=60, deadline=None)
def test_two_devices_take_as_few_parts_as_stages(model: ir.Model) -> None:
    """stage(n) = least s >= stage(p) of all p that n reads, devices alternating by stage: the fewest there can be."""
    module = Module("m", {"main": model}, Level.PLACED)
    nodes = list(model.graph)
    where = placements(module, nodes, "npu")
    copied = copied_nodes(nodes, where, "npu")
    options = []
    for first in ("npu", "cpu"):
        stage: dict[ir.Node | None, int] = {}
        for i, node in enumerate(nodes):
            if i not in copied:
                least = max((stage.get(v.producer(), 0) for v in node.inputs if v is not None), default=0)
                stage[node] = least + ((where[i].device == first) != (least % 2 == 0))
        options.append(stage)
    stages = min(options, key=lambda stage: len(set(stage.values())))
    crossing = {(use.node, value) for n in stages for value in n.outputs for use in value.uses() if use.node in stages}
    across = {(stages[reader], v) for reader, v in crossing if stages[reader] != stages[v.producer()]}
    found = partition(module, "npu")
    assert len(found.parts) <= max(1, len(set(stages.values())))
    assert len(found.transfers) <= len(across)


@given(pins=st.lists(st.sampled_from(SHARDS), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_chain_is_cut_where_its_placement_changes(pins: list[Placement]) -> None:
    module = from_text('<ir_version: 10, opset_import: ["" : 21]> m (float[2] x) => (float[2] y) { y = Tanh(x) }')
    graph = module.main.graph
    pin(graph[0], pins[0])
    for placement in pins[1:]:
        last = graph.outputs[0]
        node = ir.node("Tanh", [last], name=f"n{len(graph)}")
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"v{len(graph)}", last.type, last.shape
        pin(node, placement)
        graph.append(node)
        graph.outputs[0] = node.outputs[0]
    found = partition(module, "npu")
    runs = [placement for placement, _nodes in itertools.groupby(pins)]
    assert [Placement(part.device, part.shard) for part in found.parts] == runs
    assert len(found.transfers) == len(runs) - 1


BESIDE = """<ir_version: 10, opset_import: ["" : 21]>
m (float[2] x) => (float[2] y) {
    a = Tanh(x)
    [main] b = Exp(a)
    [aside] c = Sin(a)
    y = Add(b, c)
}"""


def test_a_shard_lets_two_parts_run_side_by_side() -> None:
    """Without one, `main` joins the part before it, and `aside` waits for both."""
    module = from_text(BESIDE)
    node = {node.name: node for node in module.nodes()}
    pin(node["aside"], Placement("cpu"))
    chain = partition(module, "npu").schedule()
    assert [*chain.lanes.items()] == [("npu", ("checked.npu0", "checked.npu2")), ("cpu", ("checked.cpu1",))]
    assert chain.overlaps() == []
    pin(node["main"], Placement("npu", 1))
    found = partition(module, "npu")
    assert [(part.name, part.shard) for part in found.parts] == [
        ("checked.npu0", 0),
        ("checked.npu1", 1),
        ("checked.cpu2", 0),
        ("checked.npu3", 0),
    ]
    assert found.schedule().overlaps() == [("checked.npu1", "checked.cpu2")]
    assert [(t.tensor, t.maker, t.reader) for t in found.transfers] == [
        ("Tanh_0", "checked.npu0", "checked.npu1"),
        ("Tanh_0", "checked.npu0", "checked.cpu2"),
        ("main", "checked.npu1", "checked.npu3"),
        ("aside", "checked.cpu2", "checked.npu3"),
    ]


def test_parts_that_the_order_separated_are_merged() -> None:
    """`b` and `d` are ready at different times, but nothing forbids that `b` waits."""
    module = from_text("""<ir_version: 10, opset_import: ["" : 21]>
    m (float[2] x) => (float[2] y) {
        [a] a = Tanh(x)
        [b] b = Exp(a)
        [c] c = Sin(a)
        [d] d = Cos(c)
        [y] y = Add(b, d)
    }""")
    for name, placement in {"b": SHARDS[0], "c": SHARDS[1], "d": SHARDS[0], "y": SHARDS[3]}.items():
        node = module.node(name)
        assert node is not None
        pin(node, placement)
    found = partition(module, "npu")
    members = {part.name: [node.name for node in part.graphs["main"].graph] for part in found.parts}
    assert members == {"checked.npu0": ["a"], "checked.cpu1": ["c"], "checked.cpu2": ["b", "d"], "checked.npu3": ["y"]}


def test_time_is_linear_in_the_nodes() -> None:
    """Alternating devices: the parts grow with the layers, and the time with both together no faster than linear."""

    def seconds(layers: int) -> float:
        module = from_text('<ir_version: 10, opset_import: ["" : 21]> m (float[2] x) => (float[2] y) { y = Tanh(x) }')
        graph = module.main.graph
        for i in range(6 * layers):
            last = graph.outputs[0]
            node = ir.node("Tanh", [last], name=f"n{i}")
            node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"v{i}", last.type, last.shape
            pin(node, DEVICES[i // 3 % 2])
            graph.append(node)
            graph.outputs[0] = node.outputs[0]
        start = time.process_time()
        assert len(partition(module, "npu").parts) >= 2 * layers
        return time.process_time() - start

    few, many = (min(seconds(layers) for _ in range(3)) for layers in (40, 160))
    assert many < 12 * few  # cloning the model for each part: 16 times and more, and 50 times in seconds


CUTS = {
    ("embed_tokens",): ["cpu0", "npu1"],
    ("embed_tokens", "lm_head"): ["cpu0", "npu1", "cpu2"],
    ("layers.0.self_attn.attention",): ["npu0", "cpu1", "npu2"],
    ("layers.0.mlp.*", "layers.1.mlp.*"): ["npu0", "cpu1", "npu2", "cpu3", "npu4"],
    ("*",): ["cpu0"],
}


@pytest.mark.parametrize("on", CUTS)
@pytest.mark.parametrize("buckets", [False, True])
def test_a_decoder(on: tuple[str, ...], buckets: bool, draft: Module, steps) -> None:
    lines = [Quantize(weights="int4"), (Place(device="cpu"), on)]
    if buckets:
        lines.append(Bucket(tokens=(1, 4), context=(16,)))
    run_pipeline(draft, steps(*lines), default_device="npu")
    parts = partition(draft, "npu").parts
    assert [part.name for part in parts] == [f"draft.{name}" for name in CUTS[on]]
    for key, model in draft.graphs.items():
        feeds = random_feeds(model.graph, draft.arch)
        expected, made = oracle.run(model, feeds), run_parts(parts, key, feeds)
        assert all(np.array_equal(expected[name], made[name]) for name in expected)


def test_boundaries_of_embedding_and_head(draft: Module, steps) -> None:
    place = (Place(device="cpu"), ("embed_tokens", "lm_head"))
    run_pipeline(draft, steps(place, Bucket(tokens=(4,), context=(16,))), default_device="npu")
    embed, body, head = (part.graphs["t4_c16"].graph for part in partition(draft, "npu").parts)
    assert [v.name for v in embed.inputs] == ["input_ids"]
    assert [(v.name, list(v.shape or ())) for v in embed.outputs] == [("inputs_embeds", [1, 4, 128])]
    assert [v.name for v in body.inputs][:3] == ["inputs_embeds", "position_ids", "attention_mask"]
    assert [v.name for v in body.outputs] == [
        *(f"past_{part}_{layer}_out" for layer in (0, 1) for part in ("key", "value")),
        "hidden_states",
    ]
    assert [v.name for v in head.inputs] == ["hidden_states"]
    assert [(v.name, list(v.shape or ())) for v in head.outputs] == [("logits", [1, 4, 2048])]
    one, other = embed.initializers["embed_tokens.weight"], head.initializers["embed_tokens.weight"]
    assert one.const_value is other.const_value  # tied, in two parts


def test_cache_tensors_are_with_their_attention(draft: Module, steps) -> None:
    run_pipeline(draft, steps((Place(device="cpu"), ("layers.1.*",))), default_device="npu")
    first, second, _ = partition(draft, "npu").parts
    assert {v.name for v in first.graphs["main"].graph.inputs} >= {"past_key_0_in", "past_value_0_in"}
    assert {v.name for v in second.graphs["main"].graph.inputs} >= {"past_key_1_in", "past_value_1_in"}
    assert {v.name for v in second.graphs["main"].graph.outputs} >= {"past_key_1_out", "past_value_1_out"}


def test_rotary_angles_are_copied_not_carried(draft: Module, steps) -> None:
    run_pipeline(draft, steps((Place(device="cpu"), ("layers.0.*",))), default_device="npu")
    parts = partition(draft, "npu").parts
    for part in parts[1:]:
        graph = part.graphs["main"].graph
        assert "rotary.cos" in {node.name for node in graph}
        assert not any("rotary" in (value.name or "") for value in graph.inputs)


def test_one_part_is_the_graph_itself(draft: Module) -> None:
    part = partition(draft, "cpu").parts[0]
    assert part.graphs["main"] is draft.main
    assert (part.name, part.device) == ("draft.cpu0", "cpu")


def test_an_npu_beside_a_cpu_deploy(draft: Module, steps, golden_error) -> None:
    run_pipeline(draft, steps((Place(device="npu"), ("lm_head",))), default_device="cpu")
    with pytest.raises(EdgecError) as raised:
        partition(draft, "cpu")
    golden_error("E0501", raised.value)


def test_an_unknown_device(draft: Module, golden_error) -> None:
    DEVICE.set(draft.main.graph[0], "gpu")
    with pytest.raises(EdgecError) as raised:
        partition(draft, "npu")
    golden_error("E0502", raised.value)


def test_a_shard_that_is_no_number(draft: Module, golden_error) -> None:
    draft.main.graph[0].metadata_props[SHARD.key] = "first"
    with pytest.raises(EdgecError) as raised:
        partition(draft, "npu")
    golden_error("E0506", raised.value)


def test_what_a_body_reads_around_it_crosses_to_its_part() -> None:
    module = from_text(
        """<ir_version: 10, opset_import: ["" : 21]>
    m (bool c, bool d, float[2] x) => (float[2] y) <float[2] w = {2.0, 3.0}> {
        h = Exp(x)
        i = Neg(h)
        j = If(c) <then_branch = a () => (float[2] u) {
                       u = If(d) <then_branch = e () => (float[2] r) { r = Tanh(h) },
                                  else_branch = f () => (float[2] s) { s = Mul(h, w) }> },
                   else_branch = b () => (float[2] v) { v = Exp(i) }>
        y = Neg(j)
    }"""
    )
    DEVICE.set(next(node for node in module.main.graph if node.op_type == "If"), "cpu")
    whole, cut = module.main, partition(module, "npu")
    assert [part.device for part in cut.parts] == ["npu", "cpu", "npu"]
    middle = cut.parts[1].graphs["main"].graph
    assert {value.name for value in middle.inputs} == {"Exp_0", "Neg_0", "c", "d"}  # `h` is read by a body in a body
    for c, d in itertools.product((False, True), repeat=2):
        feeds = {"c": np.array(c), "d": np.array(d), "x": np.float32([1, -2])}
        held = dict(feeds)
        for part in cut.parts:
            graph = part.graphs["main"].graph
            held |= oracle.run(part.graphs["main"], {v.name or "": held[v.name or ""] for v in graph.inputs})
        np.testing.assert_array_equal(held["y"], oracle.run(whole, feeds)["y"])


def test_buckets_cut_differently(draft: Module, golden_error) -> None:
    Bucket(tokens=(1, 4), context=(16,)).run(draft, Scope())
    draft.level = Level.STATIC
    for key, name in (("t1_c16", "embed_tokens"), ("t4_c16", "lm_head")):
        node = next(node for node in draft.graphs[key].graph if node.name == name)
        DEVICE.set(node, "cpu")
    with pytest.raises(EdgecError) as raised:
        partition(draft, "npu")
    golden_error("E0504", raised.value)
