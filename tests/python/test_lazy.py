"""`import edgec` and `import edgec.api` load nothing else, and what type checkers see is what there is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import edgec
import edgec.api
import pytest

MODULES = [edgec, edgec.api]


def test_importing_costs_nothing():
    code = "import sys; old = set(sys.modules); import edgec, edgec.api; print(*sorted(set(sys.modules) - old))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.startswith("edgec")}
    assert ours == {"edgec", "edgec.api", "edgec.lazy_names"}
    assert len(done.stdout.split()) < 20, done.stdout


def test_a_check_from_python_imports_no_array_library():
    code = (
        "import sys, edgec.api; edgec.check('device host\\n'); edgec.api; "
        "print(*({'numpy', 'onnx', 'onnx_ir', 'torch', 'jinja2', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import edgec.api; {code}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "module",
    ["compiler.runtime.generate", "targets.ort.worker", "targets.mnn.run.graph_worker", "targets.qnn.htp.worker"],
)
def test_what_runs_a_bundle_loads_no_onnx_ir(module):
    """It takes half a second, sympy most of it, in each of the processes that `edgec run` starts."""
    code = f"import sys, edgec.{module}; print(*({{'onnx_ir', 'sympy', 'torch', 'rich'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_name_is_there(module):
    for name in module.__all__:
        value = getattr(module, name)
        there = module._PLACES[name].partition(":")[2] or name
        assert getattr(value, "__name__", there) == there
        assert name in dir(module)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_type_checkers_see_the_same_names_from_the_same_places(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: (node.module, alias.name) for node in block.body for alias in node.names}  # type: ignore
    split = {name: place.partition(":") for name, place in module._PLACES.items()}
    assert seen == {name: (f"edgec.compiler.{place}", other or name) for name, (place, _, other) in split.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module `edgec` has no attribute `chek`"):
        edgec.chek  # noqa: B018


def test_python_m_edgec():
    done = subprocess.run([sys.executable, "-m", "edgec", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("edgec ")
