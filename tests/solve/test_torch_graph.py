"""The torch interpreter answers as ONNX Runtime does, segment by segment, past and quantised weights included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from edgec.compiler.calibration.torch_graph import Constants, run, segments
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import Weight
from edgec.compiler.oracle import compare, oracle
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantize import Quantize


def outputs(module: Module, feeds: dict[str, np.ndarray], halves: bool = False) -> dict[str, np.ndarray]:
    """All outputs, one segment after the other."""
    graph, constants = module.main.graph, Constants(on=torch.device("cpu"))
    env = {value: torch.from_numpy(feeds[value.name or ""]) for value in graph.inputs}
    with torch.no_grad():
        for segment in segments(graph, halves):
            env.update(zip(segment.outputs, run(segment.nodes, env, constants, segment.outputs), strict=True))
    return {value.name or "": env[value].numpy() for value in graph.outputs}


@pytest.mark.parametrize("name", ["draft", "target"])
@pytest.mark.parametrize("quantised", [None, "int4", "int8"])
def test_answers_as_onnx_runtime(name: str, quantised: str | None, request: pytest.FixtureRequest) -> None:
    module: Module = request.getfixturevalue(name)
    if quantised:
        Quantize(weights=quantised, symmetric=quantised == "int8").run(module, Scope())
    feeds = compare.random_feeds(module.main.graph, module.arch)
    expected = oracle.run(module.main, feeds)
    for key, made in outputs(module, feeds).items():
        assert np.abs(made - expected[key]).max() < 1e-4, key


def test_stretches_cut_the_residual_stream(target: Module) -> None:
    found = segments(target.main.graph)
    assert [s.name for s in found] == ["embed", *(f"layers.{i}" for i in range(6)), "head"]
    assert [v.name for v in found[-1].outputs] == ["logits"]
    assert [v.name for v in found[1].reads if v.name not in {v.name for v in target.main.graph.inputs}] == [
        "embed_tokens.out",
        "rotary.cos.out",
        "rotary.sin.out",
    ]


def test_halves_cut_it_between_attention_and_mlp(target: Module) -> None:
    found, streams = segments(target.main.graph, halves=True), []
    assert [s.name for s in found[:4]] == ["embed", "layers.0.self_attn", "layers.0.mlp", "layers.1.self_attn"]
    assert len(found) == 14
    for segment in found[1:-1]:
        streams += [v.name for v in segment.outputs if not v.is_graph_output()]
    assert streams == [f"layers.{i}.{half}_residual.out" for i in range(6) for half in ("attn", "mlp")]
    feeds = compare.random_feeds(target.main.graph, target.arch)
    whole = outputs(target, feeds)
    assert all(np.array_equal(made, whole[name]) for name, made in outputs(target, feeds, halves=True).items())


@pytest.mark.parametrize("quantised", [None, "int4"])
def test_only_the_rows_looked_up_are_read(
    draft: Module, quantised: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an embedding, float or quantised; what was read once is not read again."""
    if quantised:
        Quantize(weights=quantised).run(draft, Scope())
    embed = segments(draft.main.graph)[0]
    gather = next(node for node in embed.nodes if node.op_type == "Gather")
    table, place = gather.inputs
    assert table is not None
    assert place is not None
    whole = Constants(on=torch.device("cpu")).get(table)
    read: set[int] = set()
    rows = Weight.rows

    def counted(weight: Weight, start: int, stop: int) -> np.ndarray:
        if weight.dims == tuple(whole.shape):
            read.update(range(start, stop))
        return rows(weight, start, stop)

    monkeypatch.setattr(Weight, "rows", counted)
    constants = Constants(on=torch.device("cpu"))
    seen = []
    for ids in ([[5, 7, 1900], [5, 5, 6]], [[7, 300, 5]], [[1900, 6, 300]]):
        env = {place: torch.tensor(ids, dtype=torch.int32)}
        made = run([gather], env, constants, [gather.outputs[0]])[0]
        assert torch.equal(made, whole[torch.tensor(ids)])
        seen.append(set(read))
        read.clear()
    assert seen == [{5, 6, 7, 1900}, {300}, set()]


def test_gradients_reach_a_given_weight(draft: Module) -> None:
    graph = draft.main.graph
    feeds = compare.random_feeds(graph, draft.arch)
    env = {value: torch.from_numpy(feeds[value.name or ""]) for value in graph.inputs}
    value = graph.initializers["layers.1.mlp.down_proj.weight"]
    weight = Constants(on=torch.device("cpu")).get(value).clone().requires_grad_()
    constants = Constants({value: weight}, torch.device("cpu"))
    logits = next(v for v in graph.outputs if v.name == "logits")
    for _ in range(2):  # a second backward must find a graph of its own
        made = run([n for s in segments(graph) for n in s.nodes], env, constants, [logits])[0]
        made.square().mean().backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) > 0


def test_an_op_it_does_not_know_is_named(draft: Module, golden_error: Callable[..., None]) -> None:
    node = draft.node("layers.0.mlp.act")
    assert node is not None
    node.op_type = "HardSwish"
    with pytest.raises(PlanError) as raised:
        outputs(draft, compare.random_feeds(draft.main.graph, draft.arch))
    golden_error("E0470", raised.value)
