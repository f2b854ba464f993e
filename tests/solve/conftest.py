"""Small models, a calibration text, and a cache of the test's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from edgec.compiler.calibration.calibration_text import Calibration
from edgec.compiler.diagnostics.diagnostic import Span
from edgec.compiler.ir.module import Module
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.load_hf import load_hf

ROOT = Path(__file__).resolve().parents[2]
SPAN = Span("plan.edge", 3, 1, 3, 12)
LINEARS = ("lm_head", "embed_tokens")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture
def outliers(tmp_path: Path) -> Module:
    """pycode-qwen3 with outlier channels behind every norm in front of linears; its logits in float are the same."""
    models, out = ROOT / "examples" / "models", tmp_path / "outliers"
    subprocess.run([sys.executable, models / "outliers.py", models / "pycode-qwen3", out], check=True)
    return load_hf("target", out, 512)


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
