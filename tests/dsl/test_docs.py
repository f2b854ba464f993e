"""docs/language.md: every plan in it parses, and the whole one is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from edgec.dsl import check_file
from edgec.dsl.parser import parse_text

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = re.findall(r"```edge\n(.*?)```", (DOCS / "language.md").read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_plans_in_the_docs_parse(index):
    assert parse_text(BLOCKS[index]).statements


def test_the_whole_plan_of_the_docs_is_right(tmp_path):
    path = tmp_path / "plan.edge"
    path.write_text(BLOCKS[0].replace('"../', f'"{DOCS.parent}/'))
    plan, diagnostics, _ = check_file(path)
    assert plan is not None, diagnostics
