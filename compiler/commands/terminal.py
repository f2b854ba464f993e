"""Diagnostics on stderr, in colours where somebody looks at them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

from ..diagnostics.diagnostic import Diagnostic, render


def show(diagnostics: Iterable[Diagnostic], sources: Mapping[str, str] | None = None) -> None:
    """Print each with its code frames and an empty line behind it."""
    for diagnostic in diagnostics:
        print(render(diagnostic, sources, color=colours()), end="\n\n", file=sys.stderr)


def colours() -> bool:
    """Whether stderr is a terminal whose user has not asked for plain text (https://no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
