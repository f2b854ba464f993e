"""The one direction data flows in: `dsl`, `passes`, `targets` import `compiler`, never each other; inside `compiler`
only `driver.py` and `cli.py` know the others. And what a wheel holds is what the tree holds."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("compiler", "dsl", "passes", "targets")
KNOW_ALL = {"compiler/driver.py", "compiler/cli.py"}


def modules() -> list[Path]:
    """Every module of the distribution, relative to the root."""
    return sorted(path.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported_layers(source: str, path: Path) -> set[str]:
    """The layers that a module's imports reach, also inside functions and under TYPE_CHECKING."""
    package = ["edgec", *path.parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [".".join([*base, node.module or alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {parts[1] for parts in (name.split(".") for name in names) if parts[0] == "edgec" and len(parts) > 1}
    return found & set(LAYERS)


def forbidden(source: str, path: Path) -> set[str]:
    """The layers this module imports and must not."""
    layer = path.parts[0]
    if layer == "compiler":
        return set() if path.as_posix() in KNOW_ALL else imported_layers(source, path) - {"compiler"}
    return imported_layers(source, path) - {"compiler", layer}


@pytest.mark.parametrize("path", modules(), ids=str)
def test_imports_go_one_way(path: Path) -> None:
    assert forbidden((ROOT / path).read_text(encoding="utf-8"), path) == set()


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("passes/a.py", "from ..targets.mnn import blobs", {"targets"}),
        ("targets/mnn/a.py", "def f():\n    from ...passes import quantize", {"passes"}),
        ("compiler/a.py", "from ..dsl import parser", {"dsl"}),
        ("compiler/commands/a.py", "import edgec.targets.qnn", {"targets"}),
        ("compiler/driver.py", "from ..dsl import parser", set()),
        ("dsl/a.py", "from ..compiler.plan import Plan\nfrom .ast import Node", set()),
        ("targets/ort/a.py", "from ..qnn import lower", set()),
    ],
)
def test_the_rule_sees_what_it_forbids(path: str, source: str, found: set[str]) -> None:
    assert forbidden(source, Path(path)) == found


def test_every_folder_of_modules_is_packaged() -> None:
    """A subfolder missing from `packages` imports from a checkout and is absent from the wheel."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.as_posix() for path in modules()}
    assert {setup["package-dir"][name] for name in setup["packages"]} == folders
    for name, folder in setup["package-dir"].items():
        assert folder == ("compiler/_edgec" if name == "edgec" else name.removeprefix("edgec.").replace(".", "/"))


def test_data_files_are_packaged() -> None:
    """Every data file beside the code matches a pattern of `package-data`."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    ignored = {".py", ".pyc", ".so"}
    data = [p for layer in LAYERS for p in (ROOT / layer).rglob("*") if p.is_file() and p.suffix not in ignored]
    assert [str(path) for path in data if not any(path.match(pattern) for pattern in patterns)] == []
    assert data
