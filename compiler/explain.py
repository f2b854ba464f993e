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
