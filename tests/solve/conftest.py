"""Small models, a calibration text, and a cache of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edgec.compiler.diagnostics import Span
from edgec.compiler.load_hf import load_hf
from edgec.compiler.module import Module
from edgec.compiler.pass_base import Scope
from edgec.compiler.plan import Calibration

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "examples" / "models"
SPAN = Span("plan.edge", 3, 1, 3, 12)
LINEARS = ("lm_head", "embed_tokens")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture
def draft() -> Module:
    """A Qwen2 of two layers, tied, with biases."""
    return load_hf("draft", MODELS / "pycode-qwen2", 512)


@pytest.fixture
def target() -> Module:
    """A Qwen3 of six layers, tied."""
    return load_hf("target", MODELS / "pycode-qwen3", 512)


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
