"""rotate: the same logits, no outliers left, ties said; nothing to do the second time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.fold_into_weights import set_weight
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module, constant
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle import oracle
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.rotate import Rotate
from edgec.passes.rotation.outlier_channels import Largest, even_out, measure, spreading
from edgec.passes.rotation.rewrite import orthogonal

IDS = np.random.default_rng(0).integers(3, 2048, (2, 48)).astype(np.int32)


def logits(module: Module) -> np.ndarray:
    return oracle.DecoderOracle(module).batch_logits(IDS)


@pytest.mark.parametrize("size", [1, 2, 7, 12, 24, 30, 32, 40, 128, 256, 320, 576])
def test_orthogonal(size: int) -> None:
    r = orthogonal(size, 0)
    assert np.abs(r @ r.T - np.eye(size)).max() < 1e-12
    if size in (7, 30, 576):  # no Hadamard matrix of those is made
        assert np.abs(r).max() < 1.42 * size**-0.5
    else:
        assert np.allclose(np.abs(r), size**-0.5)
    assert np.array_equal(r, orthogonal(size, 0))
    assert size == 1 or not np.array_equal(r, orthogonal(size, 1))


@pytest.mark.parametrize("name", ["draft", "target"])
@pytest.mark.parametrize(("residual", "values"), [(True, True), (True, False), (False, True)])
def test_logits_stay(name: str, residual: bool, values: bool, request: pytest.FixtureRequest) -> None:
    module: Module = request.getfixturevalue(name)
    before = logits(module)
    run_and_check(Rotate(residual=residual, values=values), module)
    turned = module.clone()
    assert Rotate(residual=residual, values=values).run(turned, Scope()) > 0
    assert np.abs(logits(turned) - before).max() < 1e-4
    assert Rotate(residual=residual, values=values).run(turned, Scope()) == 0


def test_a_tied_head_is_untied_and_said(draft: Module) -> None:
    scope = Scope()
    Rotate().run(draft, scope)
    found = {linear.name: linear for linear in linears(draft)}
    assert found["lm_head"].initializer is not found["embed_tokens"].initializer
    assert "`lm_head` no longer shares its weight: 1.00 MiB more" in scope.notes[0]


def test_a_graph_that_is_no_decoder(draft: Module, golden_error: Callable[..., None]) -> None:
    draft.arch = None
    with pytest.raises(PlanError) as raised:
        Rotate().run(draft, Scope())
    golden_error("E0460", raised.value)


def test_outliers_go(target: Module, outliers: Module) -> None:
    """The outlier variant answers as the model does; its activations stand out, and no longer once turned."""
    before = logits(target)
    assert np.abs(logits(outliers) - before).max() < 1e-4
    spread = [_spread(module) for module in (target, outliers)]
    Rotate().run(outliers, Scope())
    assert np.abs(logits(outliers) - before).max() < 1e-4
    assert spread[1] > 2 * spread[0]
    assert _spread(outliers) < 1.2 * spread[0]


def _spread(module: Module) -> float:
    """Largest over root mean square of the first norm's output."""
    import torch
    from edgec.compiler.calibration.torch_graph import Constants, run, segments
    from edgec.compiler.oracle import compare

    graph = module.main.graph
    feeds = compare.random_feeds(graph, module.arch)
    env = {value: torch.from_numpy(feeds[value.name or ""]) for value in graph.inputs}
    node = module.node("layers.0.input_layernorm")
    assert node is not None
    nodes = [n for s in segments(graph) for n in s.nodes]
    x = run(nodes, env, Constants(on=torch.device("cpu")), [node.outputs[0]])[0]
    return float(x.abs().max() / x.square().mean().sqrt())


def _with_an_outlier(module: Module, channel: int = 5, factor: float = 400.0) -> Module:
    """The model with one channel of its embedding far larger."""
    for linear in linears(module):
        if linear.kind == "gather" and linear.stored is not None:
            table = linear.stored.numpy().copy()
            table[:, channel] *= factor
            set_weight(linear.value, from_array(linear.value.name or "", table))
    return module


@pytest.mark.parametrize("size", [8, 30, 576])
@pytest.mark.parametrize("channels", [[3], [3, 0, 7], list(range(8))])
def test_spreading_is_orthogonal_and_spreads(size: int, channels: list[int]) -> None:
    r = spreading(size, channels, 0)
    assert np.abs(r @ r.T - np.eye(size)).max() < 1e-12
    assert np.abs(r[channels]).max() < np.sqrt(2 / size) + 1e-12


def test_outliers_inside_an_mlp_are_evened_out(draft: Module) -> None:
    before, name = logits(draft), "layers.1.mlp.up_proj"
    width = next(x.shape[0] for x in linears(draft) if x.name == name)
    c = np.ones(width, np.float32)
    c[3] = 8
    first, inputs = (
        measure(draft, IDS),
        [n.inputs[0].name or "" for n in draft.nodes("MatMul") if "down_proj" in (n.name or "")],
    )
    assert sorted(first.inside) == sorted(inputs)
    assert even_out(draft, {inputs[1]: c}) == 1
    assert np.abs(logits(draft) - before).max() < 1e-4
    ratio = first.inside[inputs[1]] / measure(draft, IDS).inside[inputs[1]]
    assert np.allclose(ratio, c, rtol=1e-3)


def test_what_stands_out() -> None:
    hidden, inner = np.ones(64, np.float32), np.ones(32, np.float32)
    hidden[[5, 9, 11]] = 9, 300, 7
    inner[[1, 2, 3]] = 63, 128, 9000
    seen = Largest(hidden, {"a": inner, "b": np.ones(32, np.float32)})
    assert seen.outliers() == {9: 300.0, 5: 9.0}
    (factors,) = seen.factors().values()
    assert factors[:4].tolist() == [1, 1, 2, 8]


def test_only_outliers_are_turned(draft: Module, scope: Scope) -> None:
    """Logits stay, the outlier goes, norms keep gains, and weights stay nearer to what they were than if all turn."""
    module = _with_an_outlier(draft)
    everything, some = module.clone(), module.clone()
    before, ids = logits(module), IDS[:, :32]
    Rotate(values=False).run(everything, Scope())
    assert Rotate(values=False, channels="outliers").run(some, scope) > 0
    assert np.abs(logits(some) - before).max() < 1e-4 * np.abs(before).max()
    assert measure(some, ids).hidden.max() < 0.3 * measure(module, ids).hidden.max()
    assert any("outliers of hidden channels are spread: 5 (" in note for note in scope.notes)
    assert Rotate(values=False, channels="outliers").run(some, scope) == 0
    moved = [_moved(module, one) for one in (some, everything)]
    assert moved[0] < 0.5 * moved[1]
    norm = some.node("layers.0.input_layernorm")
    gain = constant(norm.inputs[1]) if norm is not None else None
    assert gain is not None
    assert gain.numpy().std() > 0.01


def _moved(one: Module, other: Module) -> float:
    """How far q_proj of two models lie apart, in parts of the first."""
    first, second = (
        next(x.weight().numpy() for x in linears(m) if x.name == "layers.0.self_attn.q_proj") for m in (one, other)
    )
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


def test_without_outliers_nothing_is_turned(draft: Module, scope: Scope) -> None:
    assert Rotate(values=False, channels="outliers").run(draft, scope) == 0
    assert any("no hidden channel stands out" in note for note in scope.notes)
    tied = {linear.name: linear.initializer for linear in linears(draft)}
    assert tied["lm_head"] is tied["embed_tokens"]


def test_outliers_need_a_text(draft: Module) -> None:
    with pytest.raises(PlanError) as raised:
        Rotate(channels="outliers").run(draft, Scope())
    (problem,) = raised.value.diagnostics
    assert problem.code == "E0454"
    assert "rotate (channels = outliers)" in problem.message
