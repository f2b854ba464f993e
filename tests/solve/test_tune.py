"""Scales learned end to end: closer to the float model on text that nobody calibrated on, integers as they were."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edgec.compiler.calibration import windows as calibrate
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantization.round_to_nearest import two_level
from edgec.passes.quantize import Quantize
from edgec.passes.solve import tuned_weights
from edgec.passes.solve.end_to_end import EndToEnd
from edgec.passes.solve.residual_streams import ResidualStreams
from edgec.passes.solve.tune_scales import Tune

from .test_methods import divergence

LEARNED = re.compile(r"tune: scales learned in \d+ steps; divergence on \d+ windows .* (\S+) before, (\S+) after")


def made(draft: Module, scope: Scope, **words: Any) -> Module:
    module = draft.clone()
    Quantize(**{"weights": "int3", "method": "gptq", **words}).run(module, scope)
    return module


def parts(module: Module) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {linear.name: linear.quant for linear in linears(module)}
    return {name: (q.q.numpy().astype(np.int8), q.scale.numpy()) for name, q in found.items() if q is not None}


def same(module: Module, other: Module) -> bool:
    a, b = parts(module), parts(other)
    return all((a[name][0] == b[name][0]).all() and (a[name][1] == b[name][1]).all() for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("words", [{}, {"symmetric": False}])
def test_closer_to_the_float_model_with_the_same_integers(draft: Module, scope: Scope, words: dict[str, Any]) -> None:
    assert scope.calibration is not None
    scope.calibration = replace(scope.calibration, samples=64, length=128)
    plain, tuned = made(draft, scope, **words), made(draft, scope, tune="scales", **words)
    (found,) = (match for note in scope.notes if (match := LEARNED.fullmatch(note)))
    assert float(found[2]) < float(found[1])
    before, after = parts(plain), parts(tuned)
    assert all((before[name][0] == after[name][0]).all() for name in before)
    assert any((before[name][1] != after[name][1]).any() for name in before)
    assert divergence(draft, tuned) < divergence(draft, plain)


def test_gradients_are_those_of_the_divergence(draft: Module, scope: Scope) -> None:
    """Against differences, with embedding and head exchanged as well."""
    assert scope.calibration is not None
    ids = calibrate.windows(replace(scope.calibration, samples=4, length=32), draft)
    module = made(draft, Scope(None, (), scope.origin, scope.calibration))
    quants = {linear.name: linear.quant for linear in linears(module) if linear.quant is not None}
    values = {name: torch.from_numpy(q.rows(0, q.q.dims[0])) for name, q in quants.items()}
    floats = {linear.name: linear.weight() for linear in linears(draft)}
    outside = {linear.name: linear.weight() for linear in linears(module) if linear.name in ("embed_tokens", "lm_head")}
    flow = ResidualStreams(draft, floats)
    model = EndToEnd(flow, ids, lambda names: {name: values[name] for name in names}, outside)
    found = dict(model.gradients([0, 1, 3]))
    assert set(found) == set(values) - set(outside)
    for name in ("layers.0.self_attn.v_proj", "layers.1.mlp.down_proj"):
        step = 1e-2 * found[name] / found[name].norm()
        kept, ends = values[name], []
        for sign in (1, -1):
            values[name] = kept + sign * step
            ends.append(model.divergence([0, 1, 3]))
        values[name] = kept
        assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(float(found[name].norm()), rel=0.02)


def test_what_brings_nothing_is_left_alone(draft: Module, scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.passes.solve.tune_scales.Tune", lambda: Tune(rate=1.0))
    plain, tuned = made(draft, scope, block="channel"), made(draft, scope, block="channel", tune="scales")
    assert any(re.match(r"tune: \d+ steps brought nothing on 16 windows", note) for note in scope.notes)
    assert same(plain, tuned)


def test_two_levels_stay_two_levels(draft: Module, scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.passes.solve.tune_scales.Tune", lambda: Tune(epochs=16))
    words = {"weights": "int3", "scales": "lpbq"}
    plain, tuned = parts(made(draft, scope, **words)), parts(made(draft, scope, tune="scales", **words))
    assert any((plain[name][1] != tuned[name][1]).any() for name in plain)
    for _, scale in tuned.values():
        assert (two_level(scale.astype(np.float32)) == scale).all()


def test_the_cache_answers_and_time_cuts_steps(draft: Module, scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(draft, scope, tune="scales", time=0.05)
    (note,) = [note for note in scope.notes if note.startswith("tune: ")]
    assert re.search(r" 1 of 2 steps, to end within 0 s", note)
    monkeypatch.setattr(tuned_weights.ScaleTuning, "learn", lambda *_: pytest.fail("learned again"))
    again = made(draft, scope, tune="scales", time=0.05)
    assert [note for note in scope.notes if note.startswith("tune: ")] == [note, note]
    assert same(first, again)


def test_it_goes_with_methods_that_see_text() -> None:
    assert not Quantize(weights="int4", method="gptq", tune="scales", time=60.0).validate()
    assert Quantize(weights="int4", method="gptq", time=60.0).validate()


@pytest.mark.parametrize(("characters", "word"), [(1500, "on 1 windows"), (200, "one window is too few")])
def test_a_short_text_gives_up_windows_to_judge_on(
    draft: Module, scope: Scope, characters: int, word: str, text: Path
) -> None:
    text.write_text(text.read_text()[:characters])
    assert scope.calibration is not None
    one = replace(scope.calibration, samples=1)
    scope.calibration = replace(one, samples=1 + len(calibrate.windows_and_more(one, draft, 100)[1]))
    made(draft, scope, tune="scales", time=0.05)
    assert any(note.startswith("tune: ") and word in note for note in scope.notes)
