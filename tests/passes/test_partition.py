"""Parts are convex, run in order, and put together compute the same bits; boundaries have readable names."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.emit.part import Part
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import DEVICE_KEY, Module
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle import oracle
from edgec.compiler.oracle.compare import Feeds, random_feeds
from edgec.compiler.partition.cut_by_device import partition
from edgec.compiler.pipeline.pass_check import from_text
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.pipeline.run_steps import run_pipeline
from edgec.passes.bucket import Bucket
from edgec.passes.place import Place
from edgec.passes.quantize import Quantize
from hypothesis import given, settings
from hypothesis import strategies as st

SIZE = 4


@st.composite
def placed_graphs(draw: st.DrawFn) -> ir.Model:
    """A random graph of matrix products and sums over two inputs, with random devices and several outputs."""
    count = draw(st.integers(1, 12))
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
            node.metadata_props[DEVICE_KEY] = draw(st.sampled_from(["cpu", "npu"]))
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


@given(model=placed_graphs())
@settings(max_examples=60, deadline=None)
def test_random_graphs(model: ir.Model) -> None:
    module = Module("m", {"main": model}, Level.PLACED)
    parts = partition(module, "npu")
    feeds = random_feeds(model.graph, seed=1)
    expected, made = oracle.run(model, feeds), run_parts(parts, "main", feeds)
    assert all(np.array_equal(expected[name], made[name]) for name in expected)
    assert [part.name for part in parts] == [f"m.{part.device}{i}" for i, part in enumerate(parts)]
    assert all(a.device != b.device for a, b in itertools.pairwise(parts))
    if len(parts) > 1:
        check_convex(model, parts)
        check_devices(model, parts)


def check_convex(model: ir.Model, parts: list[Part]) -> None:
    """No path leaves a part and comes back: between the parts, edges only go forward."""
    graph = nx.DiGraph()
    for node in model.graph:
        for value in node.outputs:
            graph.add_edges_from((node.name, use.node.name) for use in value.uses())
    homes: dict[str, set[int]] = {}
    for index, part in enumerate(parts):
        for node in part.graphs["main"].graph:
            homes.setdefault(node.name or "", set()).add(index)
    assert set(homes) == {node.name for node in model.graph}
    single = {name: next(iter(places)) for name, places in homes.items() if len(places) == 1}
    for index in range(len(parts)):
        inside = {name for name, place in single.items() if place == index}
        for name in inside:
            for later in nx.descendants(graph, name) if name in graph else ():
                if later in single and single[later] != index:
                    back = nx.descendants(graph, later) & inside
                    assert not back


def check_devices(model: ir.Model, parts: list[Part]) -> None:
    """Every op is on its device; what is copied is not placed by hand."""
    for part in parts:
        for node in part.graphs["main"].graph:
            wanted = node.metadata_props[DEVICE_KEY]
            copies = sum(any(n.name == node.name for n in p.graphs["main"].graph) for p in parts)
            assert wanted == part.device or copies > 1 or node.op_type in ("Add", "Split", "Concat")


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
    parts = partition(draft, "npu")
    assert [part.name for part in parts] == [f"draft.{name}" for name in CUTS[on]]
    for key, model in draft.graphs.items():
        feeds = random_feeds(model.graph, draft.arch)
        expected, made = oracle.run(model, feeds), run_parts(parts, key, feeds)
        assert all(np.array_equal(expected[name], made[name]) for name in expected)


def test_boundaries_of_embedding_and_head(draft: Module, steps) -> None:
    place = (Place(device="cpu"), ("embed_tokens", "lm_head"))
    run_pipeline(draft, steps(place, Bucket(tokens=(4,), context=(16,))), default_device="npu")
    embed, body, head = (part.graphs["t4_c16"].graph for part in partition(draft, "npu"))
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
    first, second, _ = partition(draft, "npu")
    assert {v.name for v in first.graphs["main"].graph.inputs} >= {"past_key_0_in", "past_value_0_in"}
    assert {v.name for v in second.graphs["main"].graph.inputs} >= {"past_key_1_in", "past_value_1_in"}
    assert {v.name for v in second.graphs["main"].graph.outputs} >= {"past_key_1_out", "past_value_1_out"}


def test_rotary_angles_are_copied_not_carried(draft: Module, steps) -> None:
    run_pipeline(draft, steps((Place(device="cpu"), ("layers.0.*",))), default_device="npu")
    parts = partition(draft, "npu")
    for part in parts[1:]:
        graph = part.graphs["main"].graph
        assert "rotary.cos" in {node.name for node in graph}
        assert not any("rotary" in (value.name or "") for value in graph.inputs)


def test_one_part_is_the_graph_itself(draft: Module) -> None:
    part = partition(draft, "cpu")[0]
    assert part.graphs["main"] is draft.main
    assert (part.name, part.device) == ("draft.cpu0", "cpu")


def test_an_npu_beside_a_cpu_deploy(draft: Module, steps, golden_error) -> None:
    run_pipeline(draft, steps((Place(device="npu"), ("lm_head",))), default_device="cpu")
    with pytest.raises(EdgecError) as raised:
        partition(draft, "cpu")
    golden_error("E0501", raised.value)


def test_an_unknown_device(draft: Module, golden_error) -> None:
    draft.main.graph[0].metadata_props[DEVICE_KEY] = "gpu"
    with pytest.raises(EdgecError) as raised:
        partition(draft, "npu")
    golden_error("E0502", raised.value)


def test_control_flow(golden_error) -> None:
    module = from_text("""<ir_version: 10, opset_import: ["" : 21]>
    m (bool c, float[2] x) => (float[2] y) {
        h = Exp(x)
        y = If(c) <then_branch = a () => (float[2] u) { u = Tanh(h) },
                   else_branch = b () => (float[2] v) { v = Exp(h) }>
    }""")
    Place(device="cpu").run(module, Scope(on=("Exp_0",)))
    with pytest.raises(EdgecError) as raised:
        partition(module, "npu")
    golden_error("E0503", raised.value)
    Place(device="npu").run(module, Scope(on=("Exp_0",)))
    assert len(partition(module, "npu")) == 1  # whole, it is no problem


def test_buckets_cut_differently(draft: Module, golden_error) -> None:
    Bucket(tokens=(1, 4), context=(16,)).run(draft, Scope())
    draft.level = Level.STATIC
    for key, name in (("t1_c16", "embed_tokens"), ("t4_c16", "lm_head")):
        node = next(node for node in draft.graphs[key].graph if node.name == name)
        node.metadata_props[DEVICE_KEY] = "cpu"
    with pytest.raises(EdgecError) as raised:
        partition(draft, "npu")
    golden_error("E0504", raised.value)
