"""How far a solve is and how long it takes is said, from within its first step on, and a time limit is kept to."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from edgec.compiler.calibration.time_left import TimeLeft, duration
from edgec.compiler.diagnostics.progress import Passing, Sparse
from edgec.compiler.ir.module import Module
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantize import Quantize
from edgec.passes.solve.reconstruct import Reconstruct


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def test_the_rest_is_told_within_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch), []
    left = TimeLeft(said.append, "gptq", [10.0, 30.0])
    left.tick("layers.0")
    clock.now += 2
    left.within(0.2)  # 2 s for 2 of 40
    clock.now += 8
    left.tick("layers.1")
    clock.now += 15
    left.within(0.5)
    assert said == [
        "gptq layers.0 (1 of 2)",
        "gptq layers.0 (1 of 2), about 38 s left",
        "gptq layers.1 (2 of 2), about 30 s left",
        "gptq layers.1 (2 of 2), about 15 s left",
    ]
    assert all(isinstance(line, Passing) for line in said)


@pytest.mark.parametrize(("seconds", "text"), [(50, "about 50 s"), (600, "about 10 min"), (9000, "about 2.5 h")])
def test_a_duration_is_told_in_a_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_has_a_line_a_second_at_first_and_fewer_later(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sparse, told = Sparse(), []
    for _ in range(10_000):  # 1,000 s, ten lines a second
        clock.now += 0.1
        if sparse.lets(Passing("gptq layers.0")):
            told.append(clock.now - 100)
        assert sparse.lets("a result")
    first = [at for at in told if at < 50]
    assert all(1 <= b - a < 1.2 for a, b in itertools.pairwise(first))
    assert len(told) < 220


@pytest.mark.parametrize(
    ("steps", "kept"), [(10_000, (20, 30)), (600, (20, 30)), (100, (20, 5)), (12, (12, 1)), (5, (20, 0))]
)
def test_fewer_steps_are_spread_over_the_stages(steps: int, kept: tuple[int, int]) -> None:
    made = Reconstruct().within(steps)
    assert (made.stages, made.steps) == kept
    assert made.left**made.stages == pytest.approx(0.8**20)


def test_reconstruct_keeps_to_its_time_and_says_what_that_cost(draft: Module, scope: Scope) -> None:
    begun = time.perf_counter()
    Quantize(weights="int3", method="reconstruct", time=4.0).run(draft, scope)
    assert time.perf_counter() - begun < 12, "600 steps a block take a minute"
    (note,) = [note for note in scope.notes if note.startswith("reconstruct: ")]
    assert re.fullmatch(r"reconstruct: \d+( to \d+)? of 600 steps a block, to end within 4 s(; where .*)?", note)


def test_auto_measures_on_fewer_windows_in_less_time(draft: Module, scope: Scope) -> None:
    Quantize(weights="auto", bits=(3, 4), blocks=(32,), time=0.01).run(draft, scope)
    assert "auto: measured on 1 windows instead of 8, to end within 0 s" in scope.notes


@pytest.mark.parametrize("words", [{"weights": "int4", "method": "gptq"}, {"weights": "int4"}, {"method": "keep"}])
def test_time_goes_with_what_has_steps(words: dict[str, str]) -> None:
    assert Quantize(**words, time=60.0).validate()
    assert not Quantize(weights="int4", method="reconstruct", time=60.0).validate()
    assert not Quantize(weights="auto", method="gptq", time=60.0).validate()
