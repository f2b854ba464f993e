"""Diagnostics on stderr, in colours where somebody looks at them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

from ..diagnostics.diagnostic import Diagnostic, render


def show(diagnostics: Iterable[Diagnostic], sources: Mapping[str, str] | None = None) -> None:
    """Print each with its code frames and an empty line behind it."""
    diagnostics = list(diagnostics)
    for diagnostic in diagnostics:
        if diagnostic.accepted:
            continue
        print(render(diagnostic, sources, color=colours()), end="\n\n", file=sys.stderr)


def accepted(diagnostics: Iterable[Diagnostic]) -> str:
    """One line on the warnings that the plan accepts; empty without one."""
    found = {f"{one.code} ({one.accepted})": None for one in diagnostics if one.accepted}
    return f"accepted: {', '.join(found)}" if found else ""


def colours() -> bool:
    """Whether stderr is a terminal whose user has not asked for plain text (https://no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
