"""The example bundle, compiled once per test session through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "speculative" / "plan.edge"
HELDOUT = ROOT / "examples" / "text" / "modules.txt"  # ordinary code: the other file begins with easy tables
MODELS = ROOT / "examples" / "models"


def edgec(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "edgec.compiler.cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the example plan."""
    bundle = tmp_path_factory.mktemp("example") / "speculative"
    done = edgec("compile", EXAMPLE, "-o", bundle)
    assert done.returncode == 0, done.stderr
    return bundle


@pytest.fixture(scope="session", autouse=True)
def _quiet_terminal() -> None:
    os.environ["NO_COLOR"] = "1"
