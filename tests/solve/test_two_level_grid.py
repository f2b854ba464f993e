"""Scales of two levels: searched, refined and solved without ever leaving what the format holds."""

from __future__ import annotations

import pytest
import torch
from edgec.passes.quantization.round_to_nearest import two_level
from edgec.passes.solve import gptq, hessian
from edgec.passes.solve import integer_grid as grid
from edgec.passes.solve.residual_streams import Moments
from edgec.passes.solve.two_level_grid import Levels, better_levels, channel, normal_equations

FREE = grid.GridKind(4, 16, True, positive=True)
KIND = grid.GridKind(4, 16, True, positive=True, two_level=True)


def problem(rows: int = 24, spread: float = 1.0) -> tuple[torch.Tensor, Moments]:
    """Weights [rows, 96] whose blocks differ in size by up to e^(+-`spread`), and inputs that go together."""
    chance = torch.Generator().manual_seed(1)
    x = torch.randn(512, 96, generator=chance) @ torch.randn(96, 96, generator=chance)
    sizes = (torch.rand(rows, 6, generator=chance) * 2 - 1) * spread
    w = torch.randn(rows, 96, generator=chance) * sizes.exp().repeat_interleave(16, 1)
    return w, Moments(2 / 512 * x.T @ x, None, x.abs().mean(0), len(x))


def cost(w: torch.Tensor, made: gptq.Solved, moments: Moments) -> float:
    return float(gptq.objective(w, made.value(), moments.hessian).sum())


def is_two_level(scale: torch.Tensor) -> bool:
    array = scale.numpy()
    return bool((two_level(array) == array).all() and torch.equal(scale.half().float(), scale))


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_scales_stay_on_their_levels_at_little_cost(spread: float, order: bool) -> None:
    """Solved for its levels a weight loses little of what free scales reach; rounded onto them afterwards more."""
    w, moments = problem(spread=spread)
    free = gptq.solve("x", w, moments, FREE, gptq.Gptq(act_order=order))
    made = gptq.solve("x", w, moments, KIND, gptq.Gptq(act_order=order))
    assert is_two_level(made.grid.scale)
    assert not is_two_level(free.grid.scale)
    onto = grid.Grid(torch.from_numpy(two_level(free.grid.scale.numpy())), None, KIND.integers, 16)
    rounded = gptq.Solved(onto.quantise(free.target), onto, free.target, [])
    assert cost(w, made, moments) < 1.35 * cost(w, free, moments)
    assert cost(w, made, moments) < 0.8 * cost(w, rounded, moments)


def test_the_scale_of_a_block_is_the_best_of_fifteen() -> None:
    w, moments = problem()
    levels = Levels.of(KIND, grid.fit(w, KIND).scale, 0.7)
    block, part = w[:, 16:32], moments.hessian[16:32, 16:32]
    found = levels.fit_block(block, part, 1)
    costs = []
    for i in range(1, 16):
        scale = (levels.channel * i)[:, None]
        costs.append(gptq.objective(block, (block / scale).round().clamp(-8, 7) * scale, part))
    best = levels.channel * (torch.stack(costs).argmin(0) + 1)
    assert torch.equal(found, torch.where(levels.anchor == 1, levels.channel * 15, best))
    assert (levels.anchor == 1).any()
    assert (found < levels.channel * 15).any()


def test_refined_levels_are_never_worse_and_sometimes_better() -> None:
    w, moments = problem()
    start = Levels.of(KIND, grid.fit(w, KIND).scale, 0.7).fit(w, moments.hessian)
    q = start.quantise(w)
    made = better_levels(w, q, start, moments.hessian)
    before, after = (gptq.objective(w, one.value(q), moments.hessian) for one in (start, made))
    assert is_two_level(made.scale)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.98 * before.sum()


def test_the_equations_give_the_objective() -> None:
    w, moments = problem()
    on = grid.fit(w, KIND)
    q = on.quantise(w)
    whole = torch.cat(
        [
            ((left @ s[..., None])[..., 0] * s).sum(1) - 2 * (right * s).sum(1)
            for own, left, right in normal_equations(w, q, 16, moments.hessian)
            for s in (on.scale[own],)
        ]
    )
    expected = gptq.objective(w, on.value(q), moments.hessian)
    assert torch.allclose(whole + gptq.objective(w, torch.zeros_like(w), moments.hessian), expected, rtol=1e-3)


def test_dropped_weights_stay_zero_and_empty_rows_finite() -> None:
    w, moments = problem()
    w[3] = 0
    kept = torch.rand(w.shape, generator=torch.Generator().manual_seed(5)) > 0.5
    made = gptq.solve("x", w * kept, moments, KIND, gptq.Gptq(), kept)
    assert not made.q[~kept].any()
    assert made.q.any()
    assert torch.isfinite(made.value()).all()
    assert is_two_level(made.grid.scale)


@pytest.mark.parametrize("size", [1e-7, 3e-6, 1e-3, 1.0, 2000.0])
def test_a_channels_scale_is_exact_in_float16_for_every_block(size: float) -> None:
    c = channel(torch.linspace(1, 2, 97) * size)
    for i in range(1, 16):
        assert torch.equal((c * i).half().float(), c * i)
    assert torch.allclose(c, torch.linspace(1, 2, 97) * size, rtol=0.008, atol=grid.SMALLEST)


def test_a_scale_is_damped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hessian is factored once, for free scales and for those on levels."""
    w, moments = problem()
    calls = []
    monkeypatch.setattr(gptq, "prepare", lambda *given, **more: calls.append(1) or hessian.prepare(*given, **more))
    gptq.solve("x", w, moments, KIND, gptq.Gptq())
    assert len(calls) == 1
