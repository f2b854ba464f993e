"""Calibration windows: which they are, and what each bad input says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.calibration import windows as calibrate
from edgec.compiler.calibration.calibration_text import Calibration
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.module import Module

Golden = Callable[..., None]


def test_windows_are_distinct_pieces_of_the_text(draft: Module, calibration: Calibration) -> None:
    ids = calibrate.windows(calibration, draft)
    assert ids.shape == (8, 64)
    assert ids.dtype == np.int32
    assert len({row.tobytes() for row in ids}) == 8
    assert np.array_equal(ids, calibrate.windows(calibration, draft))
    assert not np.array_equal(ids, calibrate.windows(replace(calibration, seed=1), draft))


def test_files_are_joined_in_the_plans_order(
    draft: Module, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them the tokenizer is given at once."""
    files = [tmp_path / f"{i}.py" for i in range(5)]
    for i, path in enumerate(files):
        path.write_text(f"def f{i}(x):\n    return x + {i}\n" * 40)
    several = replace(calibration, text=tuple(files))
    together = calibrate.windows(several, draft)
    monkeypatch.setattr(calibrate, "_BATCH", 1)
    assert np.array_equal(calibrate.windows(several, draft), together)
    assert not np.array_equal(calibrate.windows(replace(several, text=tuple(files[::-1])), draft), together)


def test_windows_do_not_overlap() -> None:
    ids = calibrate.choose(np.arange(100), 10, 10, 0)
    assert sorted(ids.reshape(-1).tolist()) == list(range(100))


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"", "E0450", "is empty"),
        (b" \n\t\n", "E0450", "is empty"),
        (b"abc\xff\xfe", "E0451", "byte 3 is 0xff"),
        (b"import os\n", "E0452", "8 are asked for"),
    ],
)
def test_bad_text_is_named(
    draft: Module, calibration: Calibration, text: Path, content: bytes, code: str, says: str, golden_error: Golden
) -> None:
    text.write_bytes(content)
    with pytest.raises(PlanError) as raised:
        calibrate.windows(calibration, draft)
    assert raised.value.diagnostics[0].code == code
    assert says in raised.value.diagnostics[0].message
    assert raised.value.diagnostics[0].at is not None
    if content != b"":
        golden_error(code, raised.value, hide={str(text.parent): "TMP"})


def test_a_missing_file_is_named(draft: Module, calibration: Calibration, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"No such file"):
        calibrate.windows(replace(calibration, text=(tmp_path / "none.txt",)), draft)


def test_a_tokenizer_that_does_not_fit(draft: Module, calibration: Calibration, golden_error: Golden) -> None:
    assert draft.arch is not None
    draft.arch = replace(draft.arch, vocab=500)
    with pytest.raises(PlanError, match=r"the model has 500 embeddings") as raised:
        calibrate.windows(calibration, draft)
    golden_error("E0453", raised.value, hide={str(draft.source): "MODEL"})


def test_windows_longer_than_the_model(draft: Module, calibration: Calibration, golden_error: Golden) -> None:
    with pytest.raises(PlanError) as raised:
        calibrate.windows(replace(calibration, length=5000), draft)
    golden_error("E0456", raised.value)


def test_a_model_without_tokenizer(
    draft: Module, calibration: Calibration, tmp_path: Path, golden_error: Golden
) -> None:
    draft.tokenizer_folder = tmp_path
    with pytest.raises(PlanError) as raised:
        calibrate.windows(calibration, draft)
    golden_error("E0455", raised.value, hide={str(tmp_path): "TMP"})
