"""A bounded part of `benchmarks/kills.py`, `cache_damage.py` and `fuzz_plans.py`, and that they see what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.slow
def test_compiles_are_ended_without_harm(tmp_path):
    import kills

    met, wrong = kills.campaign("ort", 4, 1, tmp_path)
    assert wrong == []
    assert met.total() == 4


def test_what_is_left_is_seen(tmp_path):
    import kills

    place = kills.Place(tmp_path, "ort")
    (place.temporary / "tmpx").mkdir()
    (place.out / ".b.partial").mkdir()
    (place.out / "b").mkdir()
    assert place.left() == ["tmp/tmpx", "out/.b.partial"]
    assert "is not a bundle" in place.bundle()


@pytest.mark.slow
def test_damaged_cache_entries_are_not_used(tmp_path, monkeypatch):
    import cache_damage

    monkeypatch.setattr(cache_damage, "PLANS", {"rtn": ({}, "deploy m on cpu through p as ort\n")})
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path))
    counted, wrong = cache_damage.campaign(("rtn",), 1, tmp_path)
    assert wrong == []
    assert counted["hashed"] == counted["sources"] == 4


def test_mutated_plans_end_with_diagnostics():
    import fuzz_plans

    met, wrong = fuzz_plans.campaign(3000, 7, seconds=6)
    assert wrong == []
    assert met["plans"] > 100


def test_a_fault_of_the_checker_is_seen(monkeypatch):
    import fuzz_plans

    def broken(path, given, text):
        raise KeyError(text)

    monkeypatch.setattr(fuzz_plans, "check_file", broken)
    met, wrong = fuzz_plans.campaign(2, 7)
    assert (met["plans"], len(wrong)) == (2, 2)
    assert "KeyError" in wrong[0][0]
