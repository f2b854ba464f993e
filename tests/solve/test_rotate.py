"""rotate: the same logits, no outliers left, ties said; nothing to do the second time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle import oracle
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.rotate import Rotate
from edgec.passes.rotation.rewrite import orthogonal

IDS = np.random.default_rng(0).integers(3, 2048, (2, 48)).astype(np.int32)


def logits(module: Module) -> np.ndarray:
    return oracle.DecoderOracle(module).batch_logits(IDS)


@pytest.mark.parametrize("size", [1, 2, 12, 24, 30, 32, 40, 128, 256, 320])
def test_orthogonal(size: int) -> None:
    r = orthogonal(size, 0)
    assert np.abs(r @ r.T - np.eye(size)).max() < 1e-12
    if size not in (30,):
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
