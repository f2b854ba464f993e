"""A sample of `fuzz_onnx.py`, and that it sees what it is for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from . import fuzz_onnx


def test_damaged_models_load_or_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    codes, findings = fuzz_onnx.campaign(tmp_path, 150, seed=0)
    assert findings == []
    assert {"E0371", "E0374", "E0375", "read"} <= codes.keys()
    assert capfd.readouterr() == ("", "")  # names of a file reach the terminal in diagnostics alone
    assert logging.getLogger("onnx_ir").level == logging.NOTSET


@pytest.mark.parametrize(("fault", "says"), [(TypeError("a str"), "TypeError in"), (None, "ended by signal")])
def test_the_campaign_finds_exceptions_and_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception | None, says: str
) -> None:
    def broken(_path: Path) -> str:
        if fault is None:
            os.abort()
        raise fault

    monkeypatch.setattr(fuzz_onnx, "tried", broken)
    _, findings = fuzz_onnx.campaign(tmp_path, 2, seed=0)
    assert says in findings[0]
