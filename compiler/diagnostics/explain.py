"""What each code means: `codes.toml`, as `edgec explain` prints it."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path


@functools.cache
def codes() -> dict[str, dict[str, str]]:
    """Code -> its `title` and `explanation`, sorted by code."""
    table = tomllib.loads(Path(__file__).with_name("codes.toml").read_text(encoding="utf-8"))
    return dict(sorted(table.items()))


def explanation(code: str) -> str:
    """The page of one code; KeyError for a code nobody emits."""
    row = codes()[code]
    return f"{code}: {row['title']}\n\n{row['explanation'].strip()}"


def all_pages() -> str:
    """Every code's page, as `docs/errors.md` holds them."""
    source = "compiler/diagnostics/codes.toml"
    head = f"# Errors and warnings\n\nWhat `edgec explain CODE` prints, for every code. Made from `{source}`.\n"
    pages = [f"\n## {code}: {row['title']}\n\n{row['explanation'].strip()}\n" for code, row in codes().items()]
    return head + "".join(pages)
