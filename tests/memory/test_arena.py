"""Buffers in one arena: none that are needed at once overlap, and the arena is hardly larger than it has to be."""

import onnx
import onnx.parser
import onnx.shape_inference
import onnx_ir as ir
import pytest
from edgec.compiler.ir.levels import Level
from edgec.compiler.memory.arena import ALIGNMENT, peak_bytes, plan_arena
from edgec.compiler.memory.lifetimes import Lifetime, lifetimes
from edgec.targets.qnn.lower.lower_graphs import lower
from hypothesis import given
from hypothesis import strategies as st

BUFFERS = st.lists(
    st.builds(
        lambda size, first, long: Lifetime(f"{size}@{first}", size, first, first + long),
        st.integers(0, 5000), st.integers(0, 30), st.integers(0, 12),
    ),
    max_size=40,
)  # fmt: skip


@given(BUFFERS)
def test_what_is_needed_at_once_does_not_overlap(buffers):
    arena = plan_arena(buffers)
    assert len(arena.placed) == sum(one.size > 0 for one in buffers)
    for at, one in enumerate(arena.placed):
        assert one.offset % ALIGNMENT == 0
        assert one.offset + one.buffer.size <= arena.size
        for other in arena.placed[at + 1 :]:
            apart = one.buffer.last < other.buffer.first or other.buffer.last < one.buffer.first
            assert apart or other.offset >= one.offset + one.buffer.size
    assert peak_bytes(buffers) <= arena.peak <= arena.size


def test_a_chain_needs_two_of_its_buffers():
    chain = [Lifetime(f"v{i}", 640, i, i + 1) for i in range(10)]
    assert plan_arena(chain).size == 1280


@pytest.mark.parametrize("tokens", [1, 16])
def test_a_decoder_s_arena_is_its_peak(stage, tokens):
    module = stage("m", "pycode-qwen3", 256, Level.STATIC, (tokens,))
    graph = next(iter(module.graphs.values())).graph
    buffers = lifetimes(graph, 4)
    arena = plan_arena(buffers)
    assert arena.size <= 1.05 * arena.peak
    assert arena.size < 0.25 * sum(one.size for one in buffers)
    names = {one.name for one in buffers}
    assert "logits" in names
    assert not any(name.startswith("past_") and name.endswith("_in") for name in names)
    logits = next(one for one in buffers if one.name == "logits")
    assert logits.size == 4 * tokens * 2048


def test_a_graph_of_free_shape_has_no_sizes(stage):
    module = stage("m", "pycode-qwen3", 256, Level.SEMANTIC)
    with pytest.raises(ValueError, match="no static shape"):
        lifetimes(module.main.graph, 4)


@pytest.mark.parametrize(("tokens", "context"), [(1, 512), (16, 512), (64, 1024), (128, 2048)])
def test_the_plan_is_that_of_the_graph_the_engine_is_given(stage, tokens, context):
    """HTP gets an Attention in steps: what the plan gives it inside is what they need, within 5 %."""
    module = stage("m", "pycode-qwen3", context, Level.STATIC, (tokens,))
    planned = plan_arena(lifetimes(next(iter(module.graphs.values())).graph, 2)).size
    handed = plan_arena(lifetimes(next(iter(lower(module.graphs).values())).model.graph, 2)).size
    assert planned == pytest.approx(handed, rel=0.05)


def test_what_a_branch_reads_is_held_to_the_end():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[2,3] x, bool c) => (float[2,3] z) {
      a = Add(x, x)
      y = If (c) <then_branch = t () => (float[2,3] u) { u = Mul(a, x) },
                  else_branch = e () => (float[2,3] v) { v = Sub(a, x) }>
      z = Neg(y)
    }"""
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))).graph
    spans = {one.name: (one.first, one.last) for one in lifetimes(graph, 4)}
    assert spans["a"] == (0, 2)


def test_strings_have_no_size():
    text = '<ir_version: 10, opset_import: ["" : 21]> g (string[2] x) => (string[2] y) { y = Identity(x) }'
    with pytest.raises(ValueError, match="no fixed size"):
        lifetimes(ir.from_proto(onnx.parser.parse_model(text)).graph, 4)
