"""The wheel, built and installed apart from the checkout: all modules import, the command works, guards hold."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run with `path` before the environment's packages, so that the installed wheel shadows the checkout."""
    env = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "edgec"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.startswith("examples/") or not (ROOT / name).is_file():
            continue
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    done = run(*command, cwd=source)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("edgec-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = run(
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), str(wheel), cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for layer in ("compiler", "dsl", "passes", "targets"):
        for path in (ROOT / layer).rglob("*"):
            relative = path.relative_to(ROOT).as_posix().replace("compiler/_edgec/", "")
            if path.suffix in {".py", ".toml", ".json", ".lark", ".css", ".typed"} and "__pycache__" not in path.parts:
                assert f"edgec/{relative}" in inside


def test_every_module_of_the_wheel_imports(installed: Path, tmp_path: Path) -> None:
    script = (
        "import importlib, pkgutil, edgec, sys\n"
        f"assert edgec.__file__.startswith({str(installed)!r}), edgec.__file__\n"
        "for found in pkgutil.walk_packages(edgec.__path__, 'edgec.'):\n"
        "    if not found.name.endswith(('__main__', 'worker')):\n"
        "        importlib.import_module(found.name)\n"
        "print(len([name for name in sys.modules if name.startswith('edgec.')]))\n"
    )
    done = run(sys.executable, "-c", script, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_the_command_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    plan = ROOT / "examples" / "speculative" / "plan.edge"
    done = run(sys.executable, "-m", "edgec.compiler.cli", "check", str(plan), cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    done = run(sys.executable, "-m", "edgec.compiler.cli", "passes", cwd=tmp_path, path=installed)
    assert "quantize" in done.stdout


@pytest.mark.parametrize("folder", ["compiler", "dsl", "passes", "targets"])
def test_a_checkout_folder_does_not_import_as_a_second_copy(folder: str) -> None:
    done = run(sys.executable, "-c", f"import {folder}", cwd=ROOT)
    assert done.returncode == 1
    assert f"import `edgec.{folder}`" in done.stderr
