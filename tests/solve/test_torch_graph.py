"""The torch interpreter answers as ONNX Runtime does, stretch by stretch, past and quantised weights included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from edgec.compiler import compare, oracle
from edgec.compiler.diagnostics import PlanError
from edgec.compiler.module import Module
from edgec.compiler.pass_base import Scope
from edgec.compiler.torch_graph import Constants, run, stretches
from edgec.passes.quantize import Quantize


def outputs(module: Module, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs, one stretch after the other."""
    graph, constants = module.main.graph, Constants(on=torch.device("cpu"))
    env = {value: torch.from_numpy(feeds[value.name or ""]) for value in graph.inputs}
    with torch.no_grad():
        for stretch in stretches(graph):
            env.update(zip(stretch.outputs, run(stretch.nodes, env, constants, stretch.outputs), strict=True))
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
    found = stretches(target.main.graph)
    assert [s.name for s in found] == ["embed", *(f"layers.{i}" for i in range(6)), "head"]
    assert [v.name for v in found[-1].outputs] == ["logits"]
    assert [v.name for v in found[1].reads if v.name not in {v.name for v in target.main.graph.inputs}] == [
        "embed_tokens.out",
        "rotary.cos.out",
        "rotary.sin.out",
    ]


def test_gradients_reach_a_given_weight(draft: Module) -> None:
    graph = draft.main.graph
    feeds = compare.random_feeds(graph, draft.arch)
    env = {value: torch.from_numpy(feeds[value.name or ""]) for value in graph.inputs}
    value = graph.initializers["layers.1.mlp.down_proj.weight"]
    weight = Constants(on=torch.device("cpu")).get(value).clone().requires_grad_()
    constants = Constants({value: weight}, torch.device("cpu"))
    logits = next(v for v in graph.outputs if v.name == "logits")
    for _ in range(2):  # a second backward must find a graph of its own
        made = run([n for s in stretches(graph) for n in s.nodes], env, constants, [logits])[0]
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
