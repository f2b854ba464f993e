"""docs/writing-passes.md: its code runs, and the tests in it pass."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from edgec.compiler.ir.weights import from_array
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.registry import pass_fault

PAGE = Path(__file__).parents[2] / "docs" / "writing-passes.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def page() -> ModuleType:
    """All code of the page as one module."""
    module = ModuleType("writing_passes")
    sys.modules[module.__name__] = module
    exec(compile("\n".join(BLOCKS), str(PAGE), "exec", dont_inherit=True), vars(module))
    return module


def test_the_tests_of_the_page_pass(page: ModuleType) -> None:
    tests = [value for name, value in vars(page).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_its_passes_are_passes(page: ModuleType) -> None:
    assert pass_fault(page.DropIdentity) is None
    assert pass_fault(page.clip_constants) is None


def test_graphsurgeon_example(page: ModuleType) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    m (float[B,2] x) => (float[B,2] y) <float[2] c = {{1.0, {value}}}> {{ y = Add(x, c) }}"""
    assert run_and_check(page.clip_constants(), text.format(value="2.0")).changes == 0
    assert run_and_check(page.clip_constants(largest=1.5), text.format(value="1.5000005")).changes == 1


def test_derived_weight(page: ModuleType) -> None:
    weight = from_array("w", np.ones((3, 2), np.float32))
    assert page.doubled(weight).rows(1, 3).tolist() == [[2, 2], [2, 2]]
