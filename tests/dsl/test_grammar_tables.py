"""The parser loaded from its tables is the one built from the grammar."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.dsl import compile_grammar, grammar_tables, parser
from edgec.dsl.plan_text import PlanText

ROOT = Path(__file__).resolve().parents[2]
PLANS = sorted([*(ROOT / "examples").rglob("*.edge"), *(ROOT / "tests" / "errors").glob("*.edge")])


def test_the_tables_are_of_this_grammar() -> None:
    """Else every command builds the parser anew; see the head of compile_grammar.py for how to make them."""
    assert compile_grammar.made_from() == grammar_tables.MADE_FROM


def test_both_read_every_plan_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [PlanText(str(path), path.read_text(encoding="utf-8", errors="replace")) for path in PLANS]
    assert len(texts) > 60
    loaded, built = compile_grammar.load(), compile_grammar.build()
    monkeypatch.setattr(parser, "_lark", lambda: loaded)
    found = [repr(parser.parse(text)) for text in texts]
    monkeypatch.setattr(parser, "_lark", lambda: built)
    assert [repr(parser.parse(text)) for text in texts] == found


def test_tables_of_another_lark_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_tables, "MADE_FROM", ("0", grammar_tables.MADE_FROM[1]))
    monkeypatch.setattr(grammar_tables, "DATA", None)
    tree = compile_grammar.load().parse("plan p", start="plan")
    assert tree.data
