"""The example plug-in is installed for real, found by name, checked in a plan, and its own tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "examples" / "third_party_pass"
MODEL = ROOT / "examples" / "models" / "pycode-qwen2"
PLAN = """plan p
device host
model m {{ source = hf("{model}") context = 64 }}
pipeline c {{ fold_output_scale (largest = {largest})  quantize (weights = int8, block = channel) }}
deploy m on cpu through c as ort
"""


@pytest.fixture(scope="module")
def installed(installed_example: Callable[[str], Path]) -> Path:
    return installed_example("third_party_pass")


def python(site: Path | None, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **({"PYTHONPATH": str(site)} if site else {})}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_found_by_name(installed: Path, tmp_path: Path) -> None:
    code = "from edgec.compiler.registry import find_pass; print(find_pass('fold_output_scale').__module__)"
    assert python(installed, "-c", code, cwd=tmp_path).stdout.strip() == "edgec_fold_scale"


def test_named_in_a_plan(installed: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.edge"
    plan.write_text(PLAN.format(model=MODEL, largest=8))
    check = ("-m", "edgec.compiler.cli", "check", str(plan))
    done = python(installed, *check, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan.write_text(PLAN.format(model=MODEL, largest=0.5))
    done = python(installed, *check, cwd=tmp_path)
    assert done.returncode == 1
    assert "largest" in done.stderr


def test_unknown_without_it(tmp_path: Path) -> None:
    plan = tmp_path / "plan.edge"
    plan.write_text(PLAN.format(model=MODEL, largest=8))
    done = python(None, "-m", "edgec.compiler.cli", "check", str(plan), cwd=tmp_path)
    assert "unknown pass `fold_output_scale`" in done.stderr


def test_its_own_tests(installed: Path, tmp_path: Path) -> None:
    done = python(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PLUGIN / "tests"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
