"""A bounded part of `benchmarks/random_onnx.py`, and that it sees what is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.slow
def test_some_seeds_are_right_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    import random_onnx

    counts, kinds = random_onnx.campaign(range(4), ["ort", "mnn"])
    assert not any(found["wrong"] or found["failed"] for found in counts.values()), capsys.readouterr().out
    assert counts["ort"] == Counter(right=sum(counts["ort"].values()))
    assert len(kinds) >= 8


def test_a_seed_gives_the_same_graph_again() -> None:
    import random_onnx

    made = [random_onnx.build(seed, (7, 21)) for seed in (3, 3, 5)]
    texts = [one.model.SerializeToString() for one in made if one is not None]
    assert texts[0] == texts[1] != texts[2]
    assert random_onnx.build(3, (7, 7)) is None or "opset 7" in random_onnx.build(3, (7, 7)).label


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({}, "is missing"),
        ({"y": np.zeros(2, np.float64)}, "is float64 (2,) for float32 (2,)"),
        ({"y": np.zeros(3, np.float32)}, "is float32 (3,)"),
        ({"y": np.array([1, 2.1], np.float32)}, "is off by 0.05"),
        ({"y": np.array([1, np.nan], np.float32)}, "is off by nan"),
    ],
)
def test_differences_are_seen(made: dict[str, np.ndarray], told: str) -> None:
    import random_onnx

    (found,) = random_onnx._differences(made, {"y": np.array([1, 2], np.float32)}, 1e-3)
    assert told in found


def test_a_wrong_number_and_an_exception_have_their_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import random_onnx

    case = random_onnx.build(3, (7, 21))
    assert case is not None
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    assert random_onnx.judge(case, tmp_path / "a", "ort") == ("right", "")
    other = replace(case, expected={name: array + np.array(1, array.dtype) for name, array in case.expected.items()})
    assert random_onnx.judge(other, tmp_path / "b", "ort")[0] == "wrong"
    monkeypatch.setattr(random_onnx.edgec, "compile", lambda *_: 1 / 0)
    assert random_onnx.judge(case, tmp_path / "c", "ort") == ("failed", "ZeroDivisionError: division by zero")
