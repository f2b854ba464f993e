"""Each method on the small models: better than rounding to nearest, the same from the cache, honest about bad input."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from edgec.compiler.calibration import windows as calibrate
from edgec.compiler.calibration.calibration_text import Calibration
from edgec.compiler.diagnostics.diagnostic import EngineError, PlanError
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle import compare, oracle
from edgec.compiler.oracle.text_perplexity import token_ids
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantization.round_to_nearest import two_level
from edgec.passes.quantize import Quantize
from edgec.passes.solve import awq, gptq, hessian
from edgec.passes.solve import integer_grid as grid
from edgec.passes.solve.residual_streams import Moments, ResidualStreams

LINEARS = ("lm_head", "embed_tokens")
Golden = Callable[..., None]
METHODS = ("mse", "hqq", "awq", "gptq", "reconstruct")


def divergence(module: Module, other: Module) -> float:
    """Mean KL of the next-token distributions on text that neither was calibrated on."""
    assert module.source is not None
    text = (module.source.parents[1] / "text" / "heldout.txt").read_text()[20_000:32_000]
    ids = np.array(token_ids(module.source, text), np.int32)[: 8 * 128].reshape(8, 128)
    p, q = (torch.log_softmax(torch.from_numpy(oracle.DecoderOracle(m).batch_logits(ids)), -1) for m in (module, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("weights", "symmetric"), [("int4", True), ("int3", False)])
def test_better_than_rounding(draft: Module, scope: Scope, method: str, weights: str, symmetric: bool) -> None:
    assert scope.calibration is not None
    scope.calibration = replace(scope.calibration, samples=64, length=128)
    solved, rounded = draft.clone(), draft.clone()
    Quantize(weights=weights, symmetric=symmetric, method=method).run(solved, scope)
    Quantize(weights=weights, symmetric=symmetric).run(rounded, scope)
    limit = {"hqq": 1.1}.get(method, 0.9)  # hqq looks at weights only, and is made for grids with free zeros
    assert divergence(draft, solved) < limit * divergence(draft, rounded)


@pytest.mark.parametrize("method", METHODS)
def test_holds_what_a_pass_claims(draft: Module, calibration: Calibration, method: str) -> None:
    run_and_check(Quantize(weights="int8", method=method), draft, None, LINEARS, calibration=calibration)


@pytest.mark.parametrize("method", ["mse", "gptq"])
@pytest.mark.parametrize("block", [16, 128, "channel"])
def test_integers_and_scales_are_of_the_format(draft: Module, scope: Scope, method: str, block: int | str) -> None:
    Quantize(weights="int3", block=block, symmetric=False, method=method).run(draft, scope)
    for linear in linears(draft):
        if linear.quant is None:
            continue
        q, scale = linear.quant.q.numpy().astype(np.int32), linear.quant.scale.numpy()
        assert q.min() >= 0
        assert q.max() <= 7
        assert np.array_equal(scale, scale.astype(np.float16).astype(np.float32))
        assert (scale > 0).all()


def integers(module: Module) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {x.name: (x.quant.q.numpy(), x.quant.scale.numpy()) for x in linears(module) if x.quant is not None}


def equal(first: Module, second: Module) -> bool:
    one, two = integers(first), integers(second)
    return one.keys() == two.keys() and all(
        np.array_equal(a, b) for n in one for a, b in zip(one[n], two[n], strict=True)
    )


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_the_cache_answers_the_second_time(
    target: Module, scope: Scope, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same integers, and no stream is computed for them."""
    first, second, said = target.clone(), target.clone(), []
    Quantize(weights="int4", method=method).run(first, scope)
    scope.progress = said.append
    monkeypatch.setattr("edgec.passes.solve.residual_streams.run", None)
    Quantize(weights="int4", method=method).run(second, scope)
    assert re.fullmatch(method + r" layers\.5\.mlp \(12 of 13\)(, about \d+ s left)?", said[-1])
    assert len(integers(first)) == 42
    assert equal(first, second)


def test_resumes_behind_the_last_layer_solved(target: Module, scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    solve = gptq.solve

    def counted(name: str, *args: object) -> gptq.Solved:
        if name == "layers.3.self_attn.q_proj" and "killed" not in calls:
            calls.append("killed")
            raise KeyboardInterrupt
        calls.append(name)
        return solve(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(gptq, "solve", counted)
    with pytest.raises(KeyboardInterrupt):
        Quantize(weights="int4", method="gptq").run(target.clone(), scope)
    before, resumed = calls.index("killed"), target.clone()
    Quantize(weights="int4", method="gptq").run(resumed, scope)
    assert before == 12  # groups of linears that share an input: four a layer
    assert len(calls) == 24 + 1
    monkeypatch.setenv("EDGEC_CACHE", os.environ["EDGEC_CACHE"] + ".other")
    Quantize(weights="int4", method="gptq").run(target, scope)
    assert equal(resumed, target)


def test_awq_resumes_behind_the_last_scale_found(target: Module, scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, search = [], awq.search

    def counted(weights: Mapping[str, torch.Tensor], *args: object) -> torch.Tensor:
        calls.append(next(iter(weights)))
        if calls.count("layers.3.mlp.down_proj") == 1 and calls[-1] == "layers.3.mlp.down_proj":
            raise KeyboardInterrupt
        return search(weights, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(awq, "search", counted)
    with pytest.raises(KeyboardInterrupt):
        Quantize(weights="int4", method="awq").run(target.clone(), scope)
    resumed = target.clone()
    Quantize(weights="int4", method="awq").run(resumed, scope)
    assert len(calls) == 6 * 4 + 1
    monkeypatch.setenv("EDGEC_CACHE", os.environ["EDGEC_CACHE"] + ".other")
    Quantize(weights="int4", method="awq").run(target, scope)
    assert equal(resumed, target)


def test_without_calibration_it_says_so(draft: Module) -> None:
    with pytest.raises(PlanError, match=r"needs a `calibration` block"):
        Quantize(weights="int4", method="gptq").run(draft, Scope())


def test_without_torch_it_says_what_to_install(
    draft: Module, scope: Scope, golden_error: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgec.compiler.pipeline.demands.find_spec", lambda _name: None)
    with pytest.raises(PlanError) as raised:
        Quantize(weights="int4", method="gptq").run(draft, scope)
    golden_error("E0461", raised.value)


def test_a_weight_that_is_not_finite_is_named(draft: Module, scope: Scope) -> None:
    value = draft.main.graph.initializers["layers.1.mlp.up_proj.weight"]
    broken = value.const_value.numpy().copy()  # type: ignore[union-attr]
    broken[7, 3] = np.nan
    value.const_value = from_array(value.name or "", broken)
    for method in ("mse", "gptq"):
        with pytest.raises(PlanError, match=r"layers\.1\.mlp\.up_proj\.weight.*NaN in row 7"):
            Quantize(weights="int4", method=method).run(draft.clone(), scope)


def test_activations_that_are_not_finite_are_named(draft: Module, scope: Scope, golden_error: Golden) -> None:
    value = draft.main.graph.initializers["layers.1.input_layernorm.weight"]
    value.const_value = from_array(value.name or "", np.full(128, np.inf, np.float32))
    with pytest.raises(EngineError, match=r"layers\.1\.self_attn\.q_proj") as raised:
        Quantize(weights="int4", method="gptq").run(draft, scope)
    golden_error("E0457", raised.value)


def test_a_singular_hessian_is_damped_and_said() -> None:
    x = torch.zeros(3, 64)
    x[:, :2] = torch.tensor([[1.0, 1.0], [2.0, 2.0], [1e-4, 1e-4]])
    moments = Moments(2 * x.T @ x, None, x.abs().mean(0), 10**12)
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    made = gptq.solve("layers.0.mlp.up_proj", w, moments, grid.GridKind(4, 32, True), gptq.Gptq(damping=0.0))
    assert "not positive definite; damped by 0.0001" in made.notes[0]
    assert torch.isfinite(made.value()).all()


def test_what_no_damping_cures_is_an_error(golden_error: Golden) -> None:
    with pytest.raises(EngineError) as raised:
        hessian.prepare("x", torch.full((4, 4), torch.nan), 0.01, False)
    golden_error("E0458", raised.value)


def test_gptq_lowers_its_objective() -> None:
    chance = torch.Generator().manual_seed(1)
    x = torch.randn(512, 96, generator=chance) @ torch.randn(96, 96, generator=chance)
    w = torch.randn(24, 96, generator=chance)
    moments = Moments(2 / 512 * x.T @ x, None, x.abs().mean(0), len(x))
    matrix = hessian.damped(moments.hessian, 0.01)
    spanning = grid.spanning(w, grid.GridKind(3, 32, True))
    costs = [float(gptq.objective(w, spanning.value(spanning.quantise(w)), matrix).sum())]
    for rounds in (0, 2):
        made = gptq.solve("x", w, moments, grid.GridKind(3, 32, True), gptq.Gptq(rounds=rounds))
        costs.append(float(gptq.objective(w, made.value(), matrix).sum()))
    assert costs[1] < 0.5 * costs[0]
    assert costs[2] < costs[1]
    ordered = gptq.solve("x", w, moments, grid.GridKind(3, 32, True), gptq.Gptq(act_order=True))
    assert float(gptq.objective(w, ordered.value(), matrix).sum()) < 0.5 * costs[0]


def _unlike_inputs(inputs: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [64, K] and second moments of inputs that go together, a few of them thirty times as large."""
    chance = torch.Generator().manual_seed(5)
    x = torch.randn(4096, inputs, generator=chance) @ torch.randn(inputs, inputs, generator=chance)
    x[:, inputs - 60 :: 9] *= 30
    return torch.randn(64, inputs, generator=chance), 2 / len(x) * x.T @ x


def test_a_block_costs_what_the_columns_behind_it_leave() -> None:
    _, h = _unlike_inputs(96)
    ready = hessian.prepare("x", h, 0.01, False, 32)
    matrix = ready.matrix[ready.order[:, None], ready.order].double()
    own, rest = slice(32, 64), slice(64, 96)
    e = torch.randn(1, 96, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    e[:, :32] = 0.0
    e[:, rest] = -e[:, own] @ matrix[own, rest] @ torch.linalg.inv(matrix[rest, rest])
    cost = gptq._left_to_cost(ready, 32, 32, alone=False).double()
    assert torch.allclose(e @ matrix @ e.T, e[:, own] @ cost @ e[:, own].T, rtol=1e-3)
    plain = gptq._left_to_cost(ready, 32, 32, alone=True).double()
    assert torch.equal(plain, matrix[own, own])


def test_blocks_go_whole_by_the_size_of_their_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    w, h = _unlike_inputs()
    order = hessian.by_blocks(h.diagonal(), 32)
    blocks, sizes = order.reshape(-1, 32), h.diagonal()[order].reshape(-1, 32)
    assert torch.equal(order.sort().values, torch.arange(256))
    assert (blocks // 32 == blocks[:, :1] // 32).all()
    assert (sizes[:, 1:] <= sizes[:, :-1]).all()
    assert (sizes.sum(1)[1:] <= sizes.sum(1)[:-1]).all()
    moments, kind = Moments(h, None, h.diagonal().sqrt(), 4096), grid.GridKind(4, 32, True)
    costs = [float(gptq.objective(w, gptq.solve("x", w, moments, kind, gptq.Gptq()).value(), h).sum())]
    monkeypatch.setattr(hessian, "by_blocks", lambda sizes, _block: torch.arange(len(sizes)))
    costs.append(float(gptq.objective(w, gptq.solve("x", w, moments, kind, gptq.Gptq()).value(), h).sum()))
    assert costs[0] < 0.95 * costs[1]


def test_drift_is_followed() -> None:
    """Inputs moved by a linear map: weights that undo it answer as before."""
    chance = torch.Generator().manual_seed(2)
    x = torch.randn(8192, 32, generator=chance)
    moved = x * 1.2
    w = torch.randn(8, 32, generator=chance)
    moments = Moments(2 / 8192 * moved.T @ moved, 2 / 8192 * (x - moved).T @ moved, moved.abs().mean(0), 8192)
    made = gptq.solve("x", w, moments, grid.GridKind(8, 32, True), gptq.Gptq())
    assert torch.allclose(made.target, w / 1.2, atol=0.02)


def test_a_tied_head_stays_tied(draft: Module, scope: Scope) -> None:
    Quantize(weights="int8", method="gptq").run(draft, replace(scope, except_=()))
    found = {linear.name: linear for linear in linears(draft)}
    assert found["lm_head"].initializer is found["embed_tokens"].initializer


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_table_that_a_head_shares_is_solved_on_the_heads_inputs(draft: Module, scope: Scope, method: str) -> None:
    assert scope.calibration is not None
    table = replace(scope, on=LINEARS, except_=())
    flow = ResidualStreams(draft, {})
    flow.start(calibrate.windows(scope.calibration, draft), {})
    for segment in flow.segments[1:-1]:
        flow.advance(segment, {})
    inputs = flow.linears["lm_head"].node.inputs[0]
    assert inputs is not None
    hessian = flow.moments(flow.segments[-1], inputs, {}).hessian
    errors = {}
    for name in (method, "mse"):
        module = draft.clone()
        Quantize(weights="int4", method=name).run(module, table)
        w, value = (
            torch.from_numpy({x.name: x for x in linears(m)}["lm_head"].weight().numpy()) for m in (draft, module)
        )
        errors[name] = float(gptq.objective(w, value, hessian).sum())
    assert errors[method] < 0.9 * errors["mse"]
    assert not any("clip search" in note for note in table.notes)


def test_pieces_of_rows_are_solved_like_all_of_them() -> None:
    chance = torch.Generator().manual_seed(3)
    x, w = torch.randn(512, 64, generator=chance), torch.randn(24, 64, generator=chance)
    moments = Moments(2 / 512 * x.T @ x, None, x.abs().mean(0), 512)
    kind, settings = grid.GridKind(4, 32, True), gptq.Gptq()
    solver, whole = gptq.solver("x", moments, kind, settings), gptq.solve("x", w, moments, kind, settings)
    pieces = gptq.joined([solver(rows, None) for rows in w.split(7)])
    assert torch.equal(pieces.q, whole.q)
    assert torch.equal(pieces.grid.scale, whole.grid.scale)


def test_awq_folds_exactly(target: Module, calibration: Calibration) -> None:
    """Every group takes its scale (norms, v_proj of grouped heads, up_proj), and the logits stay."""
    before, sources = target.clone(), {x.name: x.weight() for x in linears(target) if x.name not in LINEARS}
    flow, scope = ResidualStreams(target, sources), Scope()
    flow.start(calibrate.windows(calibration, target), {})
    folded = awq.scale_module(flow, dict.fromkeys(sources, grid.GridKind(3, 32, True)), "windows", scope)
    assert folded >= 20
    assert scope.notes == []
    errors = compare.errors(before, target, moved_cache=True)
    assert 0 < errors["logits"] < 1e-4


def test_awq_says_what_it_cannot_scale(draft: Module, scope: Scope) -> None:
    only = replace(scope, on=("layers.0.self_attn.k_proj",), except_=())
    Quantize(weights="int8").run(draft, only)
    Quantize(weights="int4", method="awq").run(draft, scope)
    assert any("`layers.0.self_attn.k_proj` is quantised already" in note for note in scope.notes)


def test_a_scale_below_zero_turns_the_longer_side_to_where_it_is_needed() -> None:
    """Weights from -7 to 8 steps: only a scale below zero meets them all."""
    w = torch.arange(-7.0, 9.0).repeat(4, 2) * 0.125
    for made in (grid.fit(w, grid.GridKind(4, 32, True)), grid.spanning(w, grid.GridKind(4, 32, True))):
        assert (made.scale < 0).all()
        assert torch.allclose(made.value(made.quantise(w)), w, atol=5e-3)  # searched in steps
    forced = grid.fit(w, grid.GridKind(4, 32, True, positive=True))
    assert (forced.scale > 0).all()
    assert (forced.value(forced.quantise(w)) - w).abs().max() > 0.03


def test_scales_stay_above_zero_where_quantise_dequantise_pairs_read_them() -> None:
    plain = Quantize(weights="int4", block=32, method="gptq")
    assert not grid.kind_of(plain._format(4, 32), 64).positive
    for words in ({"activations": "uint16", "block": 128}, {"scales": "lpbq"}, {"weights": "int8"}):
        line = replace(plain, **words)
        assert grid.kind_of(line._format(int(line.weights[3:]), 32), 64).positive, words


def test_order_and_damping_reach_the_solver(draft: Module, scope: Scope) -> None:
    made = {}
    for name, words in (("plain", {}), ("order", {"act_order": True}), ("damping", {"damping": 0.3})):
        module = draft.clone()
        Quantize(weights="int3", method="gptq", **words).run(module, replace(scope, on=("layers.0.self_attn.*",)))
        made[name] = {x.name: x.quant.q.numpy() for x in linears(module) if x.quant is not None}
    for name in ("order", "damping"):
        assert all((made[name][linear] != made["plain"][linear]).any() for linear in made["plain"]), name


@pytest.mark.slow
def test_awq_recovers_what_outliers_cost(target: Module, outliers: Module, scope: Scope) -> None:
    solved, rounded = outliers.clone(), outliers.clone()
    Quantize(weights="int4", method="awq").run(solved, scope)
    Quantize(weights="int4").run(rounded, scope)
    assert divergence(target, solved) < 0.6 * divergence(target, rounded)


@pytest.mark.parametrize("method", ["mse", "gptq", "reconstruct"])
def test_scales_of_two_levels(draft: Module, scope: Scope, method: str) -> None:
    """Each block's scale is 1 to 15 times its row's."""
    Quantize(weights="int4", method=method, scales="lpbq").run(draft, replace(scope, on=("layers.0.mlp.*",)))
    for linear in linears(draft):
        if linear.quant is not None:
            scale = linear.quant.scale.numpy()
            assert np.array_equal(scale, two_level(scale))
            assert np.array_equal(scale, scale.astype(np.float16).astype(np.float32))
