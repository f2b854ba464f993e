"""The two trained models of the examples at the levels tests start from, and golden errors, compared with a file whole.

`EDGEC_UPDATE_GOLDEN=1 pytest …` writes the files; read the difference before committing it.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path

import pytest
from edgec.compiler import registry
from edgec.compiler.diagnostics.diagnostic import Diagnostic, EdgecError, render
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.passes.bucket import Bucket
from edgec.passes.quantize import Quantize

ERRORS = Path(__file__).parent / "errors"
ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "examples" / "models"


def pytest_configure() -> None:
    """Stop at once where the installation is older than pyproject.toml: entry points are read from the former."""
    # set in many containers; each of the thousands of processes of the suite would compile edgec's sources anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    wanted = {(group, name, value) for group, entries in groups.items() for name, value in entries.items()}
    installed = {(entry.group, entry.name, entry.value) for entry in distribution("edgec").entry_points}
    if missing := sorted(name for _, name, _ in wanted - installed):
        pytest.exit(f"not installed: {', '.join(missing)}; run `pip install --no-deps -e .` again", returncode=4)


@functools.cache
def _stage(name: str, folder: str, context: int, level: Level, tokens: tuple[int, ...] = ()) -> Module:
    if level is Level.SEMANTIC:
        return load_hf(name, MODELS / folder, context)
    module = _stage(name, folder, context, Level.COMPRESSED if level is Level.STATIC else Level.SEMANTIC).clone()
    if level is Level.COMPRESSED:
        Quantize(weights="int4", block=32).run(module, Scope(except_=("embed_tokens", "lm_head")))
    else:
        Bucket(tokens=tokens, context=(context,)).run(module, Scope())
    module.level = level
    return module


@pytest.fixture(scope="session")
def stage() -> Callable[..., Module]:
    """stage(name, "pycode-qwen3", context, level[, tokens]): a copy of a model at the level that a test starts from.

    compressed: all linears int4 in blocks of 32 but for embedding and head; static: compressed, in buckets of `tokens`.
    """
    return lambda *words, **more: _stage(*words, **more).clone()


@pytest.fixture
def draft() -> Module:
    """A Qwen2 of two layers, tied, with biases: 0.66 M weights, hidden 128."""
    return _stage("draft", "pycode-qwen2", 512, Level.SEMANTIC).clone()


@pytest.fixture
def target() -> Module:
    """A Qwen3 of six layers, tied, with q/k norms: 5 M weights, hidden 256."""
    return _stage("target", "pycode-qwen3", 512, Level.SEMANTIC).clone()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, dict[str, str]], None]]:
    """Install distributions that bring entry points, as a package manager would lay them out.

    plugin("name", "[edgec.passes]\nword = module:Class\n", {"module.py": text})
    """
    site = tmp_path / "site"
    site.mkdir()

    def install(name: str, entries: str, files: dict[str, str]) -> None:
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entries)
        for file, text in files.items():
            (site / file).write_text(text)
            monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
        importlib.invalidate_caches()
        registry.forget()

    monkeypatch.syspath_prepend(str(site))
    yield install
    monkeypatch.undo()
    registry.forget()


@pytest.fixture(scope="session")
def installed_example(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Install a package of examples/ for real; the folder it was installed into, for PYTHONPATH.

    The sources are copied, because building writes beside them.
    """

    def install(name: str) -> Path:
        folder = tmp_path_factory.mktemp("plugin")
        kept = shutil.ignore_patterns("__pycache__", "*.egg-info")
        source = shutil.copytree(ROOT / "examples" / name, folder / "source", ignore=kept)
        words = ["install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
        command = [sys.executable, "-m", "pip", *words, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return folder / "site"

    return install


def _compare(path: Path, text: str) -> None:
    if os.environ.get("EDGEC_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path.name} is missing; EDGEC_UPDATE_GOLDEN=1 writes it"
    assert text == path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def compare_golden() -> Callable[[Path, str], None]:
    return _compare


@pytest.fixture(scope="session")
def golden_error() -> Callable[..., None]:
    """Compare an error that `edgec check` cannot show (a pass, an engine, a bundle) with errors/later/CODE.txt.

    Pass the EdgecError or its diagnostics; `hide` replaces texts that differ between machines: {str(tmp_path): "TMP"}.
    """

    def check(
        code: str,
        error: EdgecError | Sequence[Diagnostic],
        sources: Mapping[str, str] | None = None,
        hide: Mapping[str, str] | None = None,
    ) -> None:
        diagnostics = error.diagnostics if isinstance(error, EdgecError) else error
        assert code in {diagnostic.code for diagnostic in diagnostics}
        text = "\n\n".join(render(diagnostic, sources) for diagnostic in diagnostics) + "\n"
        for secret, name in (hide or {}).items():
            text = text.replace(secret, name)
        _compare(ERRORS / "later" / f"{code}.txt", text)

    return check
