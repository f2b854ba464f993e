"""The one direction data flows in: `dsl`, `passes`, `targets` import `compiler`, never each other; inside `compiler`
only `driver.py` and `cli.py` know the others, and each inner package imports only those of the table `ALLOWED`.
And what a wheel holds is what the tree holds."""

from __future__ import annotations

import ast
import tomllib
from itertools import chain
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("compiler", "dsl", "passes", "targets")
KNOW_ALL = {"compiler/driver.py", "compiler/cli.py"}

# package (or module) of `compiler` -> those it may import; each line names only lines above it: there is no circle
ALLOWED = {
    "diagnostics": "",
    "files": "diagnostics",
    "kernels": "diagnostics files",
    "ir": "diagnostics files",
    "bundle": "diagnostics files ir",
    "sources": "diagnostics files ir",
    "oracle": "diagnostics files ir sources",
    "calibration": "diagnostics files ir oracle sources",
    "pipeline": "diagnostics files ir oracle sources calibration",
    "plan": "diagnostics ir sources calibration pipeline",
    "estimate": "files plan",
    "emit": "diagnostics files ir pipeline plan",
    "proof": "diagnostics files ir oracle emit",
    "memory": "ir emit",
    "partition": "diagnostics ir bundle emit",
    "packed": "diagnostics files kernels ir bundle emit",
    "registry": "plan diagnostics ir sources pipeline emit",
    "runtime": "diagnostics files ir bundle sources plan estimate emit packed registry",
    "phone": "diagnostics files bundle packed runtime",
    "compile": "diagnostics files ir bundle oracle sources calibration pipeline plan estimate emit proof memory"
    " partition packed registry runtime",
    "verify": "diagnostics ir bundle oracle sources emit packed registry runtime",
    "actions": "diagnostics files bundle pipeline plan estimate emit registry compile verify",
    "report": "diagnostics ir pipeline plan memory compile",
    "assemble": "diagnostics files bundle actions sources plan compile phone runtime report",
    "driver": "diagnostics files actions plan compile runtime verify assemble",
    "first_plan": "diagnostics files oracle plan registry driver sources ir",
    "search": "diagnostics files plan registry report driver",
    "commands": "diagnostics files ir bundle emit actions plan estimate packed registry runtime phone compile report"
    " driver first_plan search",
    "python": "diagnostics files bundle sources plan packed report runtime driver first_plan search commands",
    "cli": "diagnostics commands",
}


def modules() -> list[Path]:
    """Every module of the distribution, relative to the root."""
    return sorted(path.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported(source: str, path: Path) -> set[tuple[str, ...]]:
    """The names of edgec that a module imports, as parts; also inside functions and under TYPE_CHECKING."""
    package = ["edgec", *path.parts[:-1]]
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names += [".".join(filter(None, [*base, node.module, alias.name])) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {tuple(name.split(".")[1:]) for name in names if name.startswith("edgec.")}


def imported_layers(source: str, path: Path) -> set[str]:
    """The layers that a module's imports reach."""
    return {name[0] for name in imported(source, path)} & set(LAYERS)


def inner_package(path: Path) -> str:
    """Which line of `ALLOWED` a module of `compiler` belongs to."""
    return path.parts[1] if len(path.parts) > 2 else path.stem


def forbidden_inner(source: str, path: Path) -> set[str]:
    """Packages inside `compiler` that this module of `compiler` imports and must not."""
    own = inner_package(path)
    reached = {name[1] for name in imported(source, path) if name[0] == "compiler" and len(name) > 1}
    return reached - {own} - set(ALLOWED[own].split())


def forbidden(source: str, path: Path) -> set[str]:
    """The layers this module imports and must not."""
    layer = path.parts[0]
    if layer == "compiler":
        return set() if path.as_posix() in KNOW_ALL else imported_layers(source, path) - {"compiler"}
    return imported_layers(source, path) - {"compiler", layer}


@pytest.mark.parametrize("path", modules(), ids=str)
def test_imports_go_one_way(path: Path) -> None:
    assert forbidden((ROOT / path).read_text(encoding="utf-8"), path) == set()


def circles(sources: dict[Path, str]) -> list[list[str]]:
    """Modules of a target's package that import each other; inside functions counts too, annotations alone do not.

    An import under TYPE_CHECKING is left out: a rule that names the class it is handed imports nothing when it runs.
    """
    names = {(*path.parts[:-1], *([] if path.stem == "__init__" else [path.stem])): path for path in sources}
    graph = nx.DiGraph()
    for name, path in names.items():
        found = imported(without_types(sources[path]), path)
        reached = {one if one in names else one[:-1] for one in found} & names.keys() - {name}
        graph.add_edges_from((".".join(name), ".".join(known)) for known in reached)
    return [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1]


def without_types(source: str) -> str:
    """A module's text without what stands under `if TYPE_CHECKING`."""

    class Runtime(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST:
            types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return ast.Pass() if types else self.generic_visit(node)

    return ast.unparse(Runtime().visit(ast.parse(source)))


TARGETS = sorted(path.name for path in (ROOT / "targets").iterdir() if (path / "__init__.py").is_file())


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_imports_in_a_circle(target: str) -> None:
    own = [path for path in modules() if path.parts[:2] == ("targets", target)]
    assert circles({path: (ROOT / path).read_text(encoding="utf-8") for path in own}) == []


def test_a_circle_is_seen() -> None:
    sources = {
        Path("targets/t/a.py"): "def f():\n    from .sub.b import g",
        Path("targets/t/sub/b.py"): "from ..c import h",
        Path("targets/t/c.py"): "from . import a",
        Path("targets/t/d.py"): "from . import a",
    }
    assert circles(sources) == [["targets.t.a", "targets.t.c", "targets.t.sub.b"]]
    sources[Path("targets/t/c.py")] = "if TYPE_CHECKING:\n    from . import a"
    assert circles(sources) == []


INNER = [path for path in modules() if path.parts[0] == "compiler" and path.parts[1] not in ("_edgec", "__init__.py")]


@pytest.mark.parametrize("path", INNER, ids=str)
def test_inner_packages_import_what_the_table_allows(path: Path) -> None:
    assert forbidden_inner((ROOT / path).read_text(encoding="utf-8"), path) == set()


def test_the_table_has_no_circle_and_no_line_too_many() -> None:
    known: set[str] = set()
    for name, allowed in ALLOWED.items():
        assert set(allowed.split()) <= known, name
        known.add(name)
    assert known == {inner_package(path) for path in INNER}
    used = {
        (inner_package(path), name[1])
        for path in INNER
        for name in imported((ROOT / path).read_text(encoding="utf-8"), path)
        if name[0] == "compiler" and len(name) > 1
    }
    assert [(a, b) for a, line in ALLOWED.items() for b in line.split() if (a, b) not in used] == []


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("compiler/ir/a.py", "from ..pipeline.pass_interface import Pass", {"pipeline"}),
        ("compiler/ir/a.py", "def f():\n    from edgec.compiler.emit import part", {"emit"}),
        ("compiler/driver.py", "from .commands import compile", {"commands"}),
        ("compiler/ir/a.py", "from ..diagnostics.diagnostic import fail\nfrom .levels import Level", set()),
    ],
)
def test_the_table_sees_what_it_forbids(path: str, source: str, found: set[str]) -> None:
    assert forbidden_inner(source, Path(path)) == found


def test_few_files_lie_directly_in_the_core() -> None:
    assert len([path for path in (ROOT / "compiler").iterdir() if path.is_file()]) <= 5


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
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    ignored = {".py", ".pyc", ".so"}
    data = [p for layer in LAYERS for p in (ROOT / layer).rglob("*") if p.is_file() and p.suffix not in ignored]
    assert [str(path) for path in data if not any(path.match(one) for one in chain(*patterns.values()))] == []
    assert data
