"""Calibrated pruning: each step lowers what it says it lowers, zeros outlive every way of choosing integers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from edgec.compiler.calibration.calibration_text import Calibration
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.annotations import counted
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.sparse_pattern import Sparsity
from edgec.compiler.ir.sparsity import kept_units
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantize import Quantize
from edgec.passes.sparsify import Sparsify
from edgec.passes.sparsity import permute, solve
from edgec.passes.sparsity.inverse_factor import damp, inverse_factor
from edgec.passes.sparsity.refit import refit
from edgec.passes.sparsity.sparsegpt import sparsegpt
from edgec.passes.sparsity.swaps import swap
from edgec.passes.sparsity.units import by_groups, in_rows, in_units, kept_by

PATTERNS = ["2:4", "1:4", "4:8", "pairs"]
MLP = ("layers.0.mlp.*_proj",)


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [24, 32] and second moments of inputs that go together."""
    chance = torch.Generator().manual_seed(3)
    x = torch.randn(400, 32, generator=chance) @ torch.randn(32, 32, generator=chance)
    return torch.randn(24, 32, generator=chance), x.T @ x / 400


def error(w: torch.Tensor, v: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return (((w - v) @ h) * (w - v)).sum(1)


def fits(kept: torch.Tensor, pattern: str) -> bool:
    sparsity = Sparsity(pattern)
    return bool((kept_units(kept.numpy(), sparsity) <= sparsity.keep).all())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_units(pattern: str) -> None:
    w = torch.arange(48.0).reshape(2, 24)
    units = in_units(w, Sparsity(pattern))
    assert torch.equal(in_rows(units), w)
    assert [tuple(int(x) for x in unit) for unit in units[0, 0]] == list(Sparsity(pattern).units)


def test_inverse_factor_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several blocks, in float64 and in float32; a matrix that is not positive definite is damped until it is."""
    x = torch.randn(300, 100, generator=torch.Generator().manual_seed(1))
    h = x.T @ x / 300
    monkeypatch.setattr("edgec.passes.sparsity.inverse_factor._BLOCK", 32)
    for exact in (4096, 1):
        monkeypatch.setattr("edgec.passes.sparsity.inverse_factor._EXACT", exact)
        upper = inverse_factor("h", h)
        assert torch.equal(upper, upper.triu())
        assert torch.allclose(upper.T @ upper @ h, torch.eye(100), atol=1e-3)
    one = torch.ones(100, 100)
    assert bool(torch.isfinite(inverse_factor("one", one)).all())
    assert float(one[0, 0]) > 1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_step_lowers_the_error(problem: tuple[torch.Tensor, torch.Tensor], pattern: str) -> None:
    w, h = problem
    sparsity, matrix = Sparsity(pattern), damp(h, 0.01)
    kept = kept_by(w.square() * matrix.diagonal(), sparsity)
    wanda = torch.where(kept, w, 0.0)
    swapped, mask = swap(w, wanda, kept, matrix, sparsity, False, 20)
    value, own = sparsegpt(w, inverse_factor("w", matrix), sparsity)
    better, better_mask = swap(w, value, own, matrix, sparsity, True, 20)
    final = refit(w, better, better_mask, matrix)
    for made, held in ((wanda, kept), (swapped, mask), (value, own), (better, better_mask), (final, better_mask)):
        assert fits(held, pattern)
        assert not made[~held].any()
    assert torch.equal(swapped[mask], w[mask])  # values stay
    steps = [float(error(w, v, matrix).sum()) for v in (wanda, swapped, value, better, final)]
    assert steps[1] < 0.95 * steps[0]
    assert steps[2] < 0.95 * steps[0]
    assert steps[3] < 0.98 * min(steps[1:3])
    assert steps[4] <= steps[3] * (1 + 1e-5)


@pytest.mark.parametrize("pattern", ["2:4", "pairs"])
def test_no_swap_is_left_that_would_lower_the_error(problem: tuple[torch.Tensor, torch.Tensor], pattern: str) -> None:
    """Every other choice of every group, tried one at a time by the definition."""
    w, h = problem
    sparsity = Sparsity(pattern)
    kept = kept_by(w.square() * h.diagonal(), sparsity)
    value, mask = swap(w, torch.where(kept, w, 0.0), kept, h, sparsity, False, 200)
    before = error(w, value, h)
    for group in range(32 // sparsity.group):
        for gone in range(len(sparsity.units)):
            for comes in range(len(sparsity.units)):
                units = in_units(mask, sparsity).clone()
                possible = units[:, group, gone, 0] & ~units[:, group, comes, 0]
                units[possible, group, gone], units[possible, group, comes] = False, True
                after = error(w, torch.where(in_rows(units), w, 0.0), h)
                assert (after[possible] >= before[possible] * (1 - 1e-3)).all()


def test_wanda_weighs_inputs_as_they_are() -> None:
    """Where others are a million times as large, a damped diagonal would leave the weights alone to decide."""
    w = torch.tensor([[1.1, 1.0, 1.0, 1.05, 1.0, 1.0, 1.0, 1.0]])
    h = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 1e6, 1e6, 1e6, 1e6]))
    settings = solve.Settings(Sparsity("2:4"), "wanda", swaps=False, recover="none")
    ((_, kept),) = solve.prune_rows(solve.Problem("x", w, w, h, 1 << 20), settings)
    assert kept[0, :4].tolist() == [False, False, True, True]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_groups_of_large_inputs_go_first(pattern: str) -> None:
    """Whole groups, each as it is; what they lose is then made good by more of the others."""
    sparsity, chance = Sparsity(pattern), torch.Generator().manual_seed(7)
    x = torch.randn(2048, 128, generator=chance) @ torch.randn(128, 128, generator=chance)
    x[:, 96:] *= 20
    w, h = torch.randn(32, 128, generator=chance), x.T @ x / 2048
    order = by_groups(h.diagonal(), sparsity)
    groups = order.reshape(-1, sparsity.group)
    assert torch.equal(order.sort().values, torch.arange(128))
    assert (groups[:, 1:] - groups[:, :-1] == 1).all()
    assert (order[:32] >= 96).all()
    settings = solve.Settings(sparsity, "sparsegpt", swaps=False, recover="none")
    ((value, kept),) = solve.prune_rows(solve.Problem("x", w, w, h.clone(), 2048), settings)
    plain, _ = sparsegpt(w, inverse_factor("x", damp(h.clone(), 0.01)), sparsity)
    assert fits(kept, pattern)
    assert error(w, value, h).sum() < 0.95 * error(w, plain, h).sum()


def test_refit_is_least_squares(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    w, h = problem
    kept = kept_by(w.square(), Sparsity("2:4"))
    made = refit(w, torch.where(kept, w, 0.0), kept, h)
    for row in range(4):
        s = kept[row]
        exact = torch.linalg.solve(h[s][:, s].double(), (h[s] @ w[row]).double())
        assert torch.allclose(made[row][s].double(), exact, rtol=1e-2, atol=1e-2 * float(exact.abs().max()))


def test_better_methods_cost_less(draft: Module, scope: Scope) -> None:
    """Perplexity on the calibration text, from the notes, of one MLP pruned in each way."""
    costs = []
    for settings in (
        {"method": "wanda"},
        {"method": "wanda", "swaps": True},
        {"method": "sparsegpt"},
        {"method": "sparsegpt", "swaps": True},
        {"method": "sparsegpt", "swaps": True, "recover": "blocks"},
    ):
        module, own = draft.clone(), Scope(MLP, (), scope.origin, scope.calibration)
        assert Sparsify(**settings).run(module, own) == 3
        assert counted(module)["edgec.sparsity"] == {"2:4": 3}
        assert violations(module) == []
        costs.append(float(own.notes[-1].split(", ")[-1].split(" times")[0]))
    assert costs[0] > costs[1] > costs[2] > costs[3] > costs[4]


def test_a_second_compile_solves_nothing(draft: Module, scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Sparsify(method="sparsegpt")
    first, again = draft.clone(), draft.clone()
    line.run(first, scope)
    monkeypatch.setattr(solve, "sparsegpt", None)
    other = Scope(None, scope.except_, scope.origin, scope.calibration)
    line.run(again, other)
    assert other.notes == scope.notes
    for one, two in zip(linears(first), linears(again), strict=True):
        assert np.array_equal(one.weight().numpy(), two.weight().numpy())
    assert Sparsify(method="sparsegpt").run(again, other) == 0


@pytest.mark.parametrize(
    "line",
    [
        {"weights": "int4", "method": "mse"},
        {"weights": "int4", "method": "hqq", "symmetric": False},
        {"weights": "int4", "method": "awq"},
        {"weights": "int4", "method": "gptq"},
        {"weights": "int3", "method": "gptq", "symmetric": False, "act_order": True},
        {"weights": "int4", "method": "gptq", "scales": "lpbq"},
        {"weights": "int4", "method": "reconstruct", "time": 1.0, "symmetric": False},
        {"weights": "auto", "method": "gptq", "bits": (4, 8), "blocks": (32,), "budget": 5.0},
    ],
    ids=lambda line: " ".join(map(str, line.values())),
)
def test_zeros_outlive_every_way_of_choosing_integers(draft: Module, calibration: Calibration, line: dict) -> None:
    on = Scope(MLP, (), None, calibration)
    Sparsify(pattern="pairs").run(draft, on)
    before = {x.name: x.weight().numpy() for x in linears(draft) if ".0.mlp." in x.name}
    Quantize(**line).run(draft, Scope(MLP, (), None, calibration))
    assert counted(draft)["edgec.sparsity"] == {"pairs": 3}
    assert violations(draft) == []
    for linear in linears(draft):
        if linear.name in before:
            after = linear.weight().numpy()
            assert not after[before[linear.name] == 0].any()
            assert np.count_nonzero(after) > 0.7 * np.count_nonzero(before[linear.name])


def test_zeros_that_nobody_stated_are_numbers_like_others(draft: Module, scope: Scope) -> None:
    """The same numbers, solved with the fact and without it, are two solutions: gptq fills what may be filled."""
    from edgec.compiler.ir.fold_into_weights import set_weight
    from edgec.compiler.ir.weights import Weight

    Sparsify(method="magnitude").run(draft, scope)
    bare = draft.clone()
    for one in linears(bare):
        if one.stored is not None:
            set_weight(one.value, Weight(one.name, one.stored.dtype, one.stored.dims, one.stored.rows, "file"))
    before = next(x for x in linears(draft) if x.name == "layers.0.mlp.up_proj").weight().numpy()
    filled = []
    for module in (draft, bare):
        Quantize(weights="int8", method="gptq").run(module, Scope(MLP, (), scope.origin, scope.calibration))
        up = next(x for x in linears(module) if x.name == "layers.0.mlp.up_proj")
        filled.append(np.count_nonzero(up.weight().numpy()[before == 0]))
    assert filled[0] == 0
    assert filled[1] > 100


def test_a_plan_without_text_names_magnitude(draft: Module) -> None:
    with pytest.raises(PlanError, match="needs a `calibration` block") as raised:
        Sparsify(method="wanda").run(draft, Scope())
    assert "magnitude" in (raised.value.diagnostics[0].help or "")


IDS = np.random.default_rng(0).integers(3, 2048, (2, 48)).astype(np.int32)


def logits(module: Module) -> np.ndarray:
    return np.stack(list(DecoderOracle(module).batch_logits(IDS)))


@pytest.mark.parametrize("name", ["draft", "target"])
def test_an_order_of_inputs_changes_no_output(name: str, request: pytest.FixtureRequest) -> None:
    module: Module = request.getfixturevalue(name)
    before, chance = logits(module), np.random.default_rng(1)
    found = permute.sites(module)
    layers = {"draft": 2, "target": 6}[name]
    assert len(found) == 2 * layers + 1
    for site in found:
        held = {x.name: x for x in linears(module)}
        first = held[site.readers[0]].weight().numpy()
        length = first.shape[1] // (site.heads * site.repeat)
        order = np.concatenate([chance.permutation(length) + head * length for head in range(site.heads)])
        assert permute._apply(module, site, order) == len({*site.readers, *site.rows, *site.columns})
        after = next(x for x in linears(module) if x.name == site.readers[0]).weight().numpy()
        assert not np.array_equal(first, after)
    assert np.abs(logits(module) - before).max() < 1e-4
    tied = {x.name: x.initializer for x in linears(module)}
    assert tied["lm_head"] is tied["embed_tokens"]


@pytest.mark.parametrize("pattern", ["2:4", "pairs"])
def test_the_search_finds_inputs_that_belong_together(pattern: str) -> None:
    """Half of the inputs do not count, and lie so that groups have to drop some that do: an order keeps them all."""
    sparsity, count = Sparsity(pattern), 32
    score = torch.zeros(8, count)
    score[:, : count // 2] = 1 + torch.rand(8, count // 2, generator=torch.Generator().manual_seed(0))
    order = permute.search(score, sparsity)
    assert sorted(order.tolist()) == list(range(count))
    before, after = (float(permute.kept(x, sparsity).sum() / score.sum()) for x in (score, score[:, order]))
    assert before < 0.7
    assert after > 0.97


def test_permuting_keeps_more_and_says_so(draft: Module, scope: Scope) -> None:
    Sparsify(method="wanda", permute=True).run(draft, scope)
    note = next(note for note in scope.notes if "permuted in 5 places" in note)
    after, before = (float(figure) for figure in re.findall(r"([\d.]+)%", note))
    assert after > before + 0.5
    assert violations(draft) == []
    assert counted(draft)["edgec.sparsity"] == {"2:4": 14}


def test_what_cannot_follow_keeps_the_order(draft: Module, scope: Scope) -> None:
    """Weights that have a pattern of their own would lose it."""
    Sparsify().run(draft, Scope(on=("layers.0.mlp.up_proj",)))
    Sparsify(method="wanda", permute=True).run(draft, scope)
    assert any("`layers.0.mlp.up_proj` cannot follow" in note for note in scope.notes)
    assert any("permuted in 3 places" in note for note in scope.notes)
    assert counted(draft)["edgec.sparsity"] == {"2:4": 14}
