"""What each code means: pages of `codes.toml`, edgec's own and those of plug-ins, as `edgec explain` prints them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

OWN = Path(__file__).with_name("codes.toml")
_WAYS_OUT = Path(__file__).with_name("ways_out.toml")
_OURS = re.compile(r"[EW][0-9]{4}")  # the form of edgec's codes, which no plug-in's code may have


def codes(others: Iterable[Path] = ()) -> dict[str, dict[str, str]]:
    """Code -> its `title` and `explanation`, sorted by code; `others` are the files of plug-ins."""
    found = dict(_read(OWN))
    for file in others:
        found.update({code: row for code, row in _read(file).items() if code not in found})
    return dict(sorted(found.items()))


def explanation(code: str, others: Iterable[Path] = ()) -> str:
    """The page of one code; KeyError for a code nobody emits."""
    row = codes(others)[code]
    return f"{code}: {row['title']}\n\n{row['explanation'].strip()}{_way_out(code)}"


def all_pages() -> str:
    """The page of each of edgec's codes, as `docs/errors.md` holds them."""
    source = "compiler/diagnostics/codes.toml"
    head = f"# Errors and warnings\n\nWhat `edgec explain CODE` prints, for every code. Made from `{source}`.\n"
    pages = [
        f"\n## {code}: {row['title']}\n\n{row['explanation'].strip()}{_way_out(code)}\n"
        for code, row in codes().items()
    ]
    return head + "".join(pages)


def _way_out(code: str) -> str:
    return f"\n\nHelp: {found}." if (found := ways_out().get(code)) else ""


def pages_fault(file: Path) -> str | None:
    """Why a plug-in's `codes.toml` cannot be used, None if it can."""
    try:
        table = _read(file)
    except (OSError, ValueError) as error:
        return f"`{file}` cannot be read: {error}"
    for code, row in table.items():
        if _OURS.fullmatch(code):
            return f"the code `{code}` in `{file}` has the form of edgec's own"
        if set(row) != {"title", "explanation"}:
            return f"`{code}` in `{file}` needs a `title` and an `explanation`, and nothing else"
    return None


@functools.cache
def ways_out() -> dict[str, str]:
    """Code -> what to do about it, for diagnostics that say nothing of their own."""
    import tomllib  # a check without a mistake does without

    return tomllib.loads(_WAYS_OUT.read_text(encoding="utf-8"))


@functools.cache
def _read(file: Path) -> dict[str, dict[str, str]]:
    import tomllib

    return tomllib.loads(file.read_text(encoding="utf-8"))
