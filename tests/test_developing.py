"""docs/developing: the index names every page, named paths exist, and quotes are in the tree word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "developing"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))
QUOTED = re.compile(r"From `([^`]+)`:\n\n```\w*\n(.*?)```", re.S)
NAMED = re.compile(r"`((?:compiler|passes|targets|tests|docs|examples|dsl)/[\w./-]+)`")


def quotes(page: str) -> list[tuple[str, str]]:
    return QUOTED.findall((FOLDER / page).read_text(encoding="utf-8"))


def test_the_index_names_every_page() -> None:
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (FOLDER / "index.md").read_text(encoding="utf-8"))
    assert sorted([*linked, "index.md"]) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_named_paths_exist(page: str) -> None:
    named = NAMED.findall((FOLDER / page).read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("page", "path", "text"), [(page, *quote) for page in PAGES for quote in quotes(page)])
def test_quotes_are_in_the_tree(page: str, path: str, text: str) -> None:
    assert text in (ROOT / path).read_text(encoding="utf-8")


def test_pages_that_quote_are_found() -> None:
    assert {page for page in PAGES if quotes(page)} >= {"adding-a-pass.md", "adding-an-error-code.md"}
