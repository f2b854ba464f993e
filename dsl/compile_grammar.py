"""The LALR tables of `grammar.lark`, computed once: building them takes longer than all the rest of `edgec check`.

    PYTHONHASHSEED=0 python -m edgec.dsl.compile_grammar     rewrites grammar_tables.py

The tables are used only for the grammar's text and the version of Lark they were made from; else Lark builds the
parser from the grammar, which gives the same trees.
"""

from __future__ import annotations

import hashlib
import pprint
from pathlib import Path

import lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

GRAMMAR = Path(__file__).with_name("grammar.lark")
_TABLES = Path(__file__).with_name("grammar_tables.py")


def build() -> lark.Lark:
    """The parser, built from the grammar."""
    text = GRAMMAR.read_text(encoding="utf-8")
    return lark.Lark(text, parser="lalr", start=["plan", "value"], propagate_positions=True)


def load() -> lark.Lark:
    """The parser, from its tables if they are of this grammar and this Lark."""
    from . import grammar_tables

    if made_from() != grammar_tables.MADE_FROM:
        return build()
    return lark.Lark._load_from_dict(grammar_tables.DATA, grammar_tables.MEMO)


def made_from() -> tuple[str, str]:
    """What the tables depend on: the version of Lark, the sha256 of the grammar."""
    return lark.__version__, hashlib.sha256(GRAMMAR.read_bytes()).hexdigest()


def tables() -> str:
    """The text of grammar_tables.py."""
    data, memo = build().memo_serialize([TerminalDef, Rule])
    head = '"""LALR tables made by `edgec.dsl.compile_grammar`; not written by hand."""\n\nfrom typing import Any\n\n'
    values = {"MADE_FROM: tuple[str, str]": made_from(), "DATA: Any": data, "MEMO: Any": memo}
    lines = (f"{name} = {pprint.pformat(value, width=118, compact=True)}\n" for name, value in values.items())
    return head + "".join(lines)


if __name__ == "__main__":
    _TABLES.write_text(tables(), encoding="utf-8")
