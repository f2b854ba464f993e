"""Small models, a calibration text, and a cache of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edgec.compiler.diagnostics import Span
from edgec.compiler.pass_base import Scope
from edgec.compiler.plan import Calibration

ROOT = Path(__file__).resolve().parents[2]
SPAN = Span("plan.edge", 3, 1, 3, 12)
LINEARS = ("lm_head", "embed_tokens")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Python text that was not held out, about 20 thousand tokens."""
    import argparse
    import inspect
    import tarfile

    path = tmp_path / "calibration.txt"
    path.write_text(inspect.getsource(argparse) + inspect.getsource(tarfile))
    return path


@pytest.fixture
def calibration(text: Path) -> Calibration:
    return Calibration((text,), 8, 64, 0, SPAN)


@pytest.fixture
def scope(calibration: Calibration) -> Scope:
    """All linears but the head, calibrated."""
    return Scope(None, LINEARS, SPAN, calibration)
