from __future__ import annotations

import ast
from pathlib import Path

import pytest
from edgec.compiler.ir import kv_names
from edgec.compiler.ir.kv_names import IN, KEY, KINDS, OUT, VALUE
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
HOME = "compiler/ir/kv_names.py"
MODULES = sorted(path for layer in ("compiler", "dsl", "passes", "targets") for path in (ROOT / layer).rglob("*.py"))


@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.sampled_from((IN, OUT)))
def test_a_name_is_read_as_it_was_made(kind: kv_names.Kind, layer: int, direction: kv_names.Direction) -> None:
    assert kv_names.parse(kv_names.format(kind, layer, direction)) == (kind, layer, direction)


def test_the_names_are_those_of_bundles() -> None:
    assert kv_names.pair(3, IN) == ("past_key_3_in", "past_value_3_in")
    assert kv_names.format(VALUE, 12, OUT) == "past_value_12_out"
    assert kv_names.parse("past_key_0_in") == (KEY, 0, IN)


@pytest.mark.parametrize(
    "name",
    [
        None, "", "past_key_0", "past_key_in", "past_query_0_in", "past_key_0_into", "a.past_key_0_in",
        "past_key_-1_in", "past_key_03_in", "past_key_٣_in", "past_key_0_in\n", "past_key_values.0.key",
    ],
)  # fmt: skip
def test_a_near_miss_is_no_cache(name: str | None) -> None:
    assert kv_names.parse(name) is None
    assert not kv_names.is_cache(name)


def spelled(source: str) -> list[str]:
    """Texts of a module, f-strings' parts too and docstrings left out, that spell the name of a K/V tensor."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {id(one.value) for one in first if isinstance(one, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [text.value for text in texts if isinstance(text.value, str) and "past_" in text.value]


def test_no_other_module_spells_them() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in MODULES if spelled(path.read_text(encoding="utf-8"))}
    assert found == {HOME}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""past_key_0_in"""\nx = f(f"past_{part}_in")', ["past_"]),
        ('def f():\n    """past_key_0_in"""\n    return name.startswith("past_")', ["past_"]),
        ("past_length = 'past'", []),
    ],
)
def test_a_spelling_is_seen(source: str, found: list[str]) -> None:
    assert spelled(source) == found
