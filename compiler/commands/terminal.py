"""Diagnostics on stderr, in colours where somebody looks at them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

from ..diagnostics.diagnostic import Diagnostic, render, to_json


def show(diagnostics: Iterable[Diagnostic], sources: Mapping[str, str] | None = None) -> None:
    """Print each with its code frames and an empty line behind it."""
    diagnostics = list(diagnostics)
    for diagnostic in diagnostics:
        if diagnostic.accepted:
            continue
        print(render(diagnostic, sources, color=colours()), end="\n\n", file=sys.stderr)


_told: list[Diagnostic] = []  # of the command at hand


def tell(warning: Diagnostic) -> None:
    """Show a warning of something found on the way, and remember it for the command's JSON document."""
    _told.append(warning)
    show([warning])


def told() -> list[Diagnostic]:
    """The warnings that `tell` has shown since this was asked last."""
    found = list(_told)
    _told.clear()
    return found


def meanwhile() -> dict[str, object]:
    """The same as a key of a JSON document; none where there was no warning."""
    found = told()
    return {"warnings": to_json(found)} if found else {}


def accepted(diagnostics: Iterable[Diagnostic]) -> str:
    """One line on the warnings that the plan accepts; empty without one."""
    found: dict[str, dict[str, None]] = {}
    for one in diagnostics:
        if one.accepted:
            found.setdefault(one.accepted, {})[one.code] = None
    said = [f"{', '.join(codes)} ({reason})" for reason, codes in found.items()]
    return f"accepted: {'; '.join(said)}" if said else ""


def colours() -> bool:
    """Whether stderr is a terminal whose user has not asked for plain text (https://no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
