"""Reading a context binary back: it holds what was compiled, and a damaged file is an error, never a crash."""

from __future__ import annotations

from dataclasses import replace

import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError
from edgec.targets.qnn import QnnTarget
from edgec.targets.qnn.htp.context_binary import GraphSpec, compare, read, verify


@pytest.fixture
def binary(emitted):
    return emitted.folder / "target_ctx.bin"


@pytest.mark.slow
def test_the_shared_binary_holds_every_bucket(emitted, binary, chip):
    info = read(binary)
    graphs = emitted.emission.parts["target.npu0"]["graphs"]
    assert {graph["graph"] for graph in graphs.values()} == set(info.graphs)
    assert info.soc_model == chip.soc_model
    assert set(info.vtcm_bytes.values()) == {chip.vtcm_mb << 20}
    t4 = {spec.name: spec for spec in info.graphs[graphs["t4_c256"]["graph"]].inputs}
    assert str(t4["past_key_0_in"]) == "`past_key_0_in` float16[2, 1, 32, 252]"
    assert str(t4["input_ids"]) == "`input_ids` int32[1, 4]"


@pytest.mark.slow
def test_inspect_describes_a_binary_and_nothing_else(binary, tmp_path):
    described = QnnTarget().inspect(binary)
    assert described is not None
    assert len(described["graphs"]) == 3
    assert QnnTarget().inspect(tmp_path / "model.onnx") is None


@pytest.mark.slow
def test_what_is_missing_or_different_is_said(binary, chip, golden_error):
    info = read(binary)
    name, graph = next(iter(info.graphs.items()))
    wider = replace(graph.inputs[0], shape=(*graph.inputs[0].shape[:-1], 999))
    expected = dict(info.graphs) | {"lost": graph, name: GraphSpec((wider, *graph.inputs[1:]), graph.outputs[:-1])}
    problems = compare(info, expected)
    assert len(problems) == 3
    with pytest.raises(EngineError) as caught:
        verify(binary, {"lost": graph, **info.graphs}, chip, True)
    golden_error("E0611", caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [0, 1, 100, 4096, 0.5, 0.99])
def test_a_truncated_file_is_refused(binary, tmp_path, cut):
    data = binary.read_bytes()
    damaged = tmp_path / "target_ctx.bin"
    damaged.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    with pytest.raises(EngineError) as caught:
        read(damaged)
    assert caught.value.diagnostics[0].code in ("E0610", "E0990")


@pytest.mark.parametrize(
    "content", [b"\0" * 100_000, b"\xff" * 100_000, b"PK\x03\x04" + b"x" * 999, bytes(range(256)) * 64]
)
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "foreign.bin"
    path.write_bytes(content)
    with pytest.raises(EngineError) as caught:
        read(path)
    assert caught.value.diagnostics[0].code in ("E0610", "E0990")


def test_a_missing_file_is_named(tmp_path, golden_error):
    with pytest.raises(EngineError) as caught:
        read(tmp_path / "target_ctx.bin")
    golden_error("E0610", caught.value)
