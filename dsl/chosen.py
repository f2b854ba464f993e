"""The text of a plan with values chosen for its `let`s, as a person would have written it.

`let block = tune(32, 64)  ->  a comment with what it was chosen from, and `let block = 64` below it. Comments and
layout stay. Paths that lead somewhere from the old plan lead there from the new one too.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ..compiler.diagnostics.diagnostic import PlanError, Span, fail
from . import ast
from .declared import collect
from .diagnostic_collector import DiagnosticCollector
from .loader import load
from .parser import parse_text, parse_value
from .plan_text import PlanText, read_plan
from .printer import show


def chosen_text(
    path: Path, values: Mapping[str, str], output: Path, why: str, offered: Mapping[str, Sequence[str]]
) -> str:
    """The plan at `path` with these values of its lets, to be written to `output`; E0986 for a let of another file.

    `why`: what chose them, for the comments; `offered`: from which values, of those that were not given by hand.
    """
    source = read_plan(path, str(path))
    report = DiagnosticCollector()
    lets = collect(load(path, report), report).lets
    edits: list[tuple[Span, str, str]] = []  # range, its new text, a comment above the line
    for name, value in values.items():
        let = lets[name]
        if let.span.file != str(path):
            message = f"`{name}` is declared in `{let.span.file}`, which the plan includes"
            fail("E0986", message, let.span, help=f"move `let {name}` into `{path}`: that is the file written anew")
        written = _quoted(value, let)
        said = f"{why} chose {value} of {', '.join(offered[name])}" if name in offered else f"{value} by -D"
        edits.append((let.value.span, written, " ".join(said.split())))
    if os.path.realpath(path.parent) != os.path.realpath(output.parent):
        tree = parse_text(source.text, str(path))
        edits += [(one.span, _moved(one, path, output), "") for one in _strings(tree) if _leads(one, path)]
    return _edited(source, edits)


def _quoted(value: str, let: ast.Let) -> str:
    """The value as the plan has to write it: `-D` takes a string without quotes."""
    own = let.value.values[0] if isinstance(let.value, ast.Tune) else let.value
    if not isinstance(own, ast.String):
        return value
    try:
        is_string = isinstance(parse_value(value, "-D"), ast.String)
    except PlanError:
        is_string = False
    return value if is_string else show(ast.String(own.span, value))


def _strings(node: Any) -> Iterator[ast.String]:
    if isinstance(node, ast.String):
        yield node
    elif isinstance(node, tuple):
        for one in node:
            yield from _strings(one)
    elif is_dataclass(node):
        for one in fields(node):
            yield from _strings(getattr(node, one.name))


def _leads(string: ast.String, path: Path) -> bool:
    """Whether a text is a relative path, or a glob, of something that is there."""
    text = string.value
    return bool(text) and not os.path.isabs(text) and any(True for _ in glob.iglob(str(path.parent / text)))


def _moved(string: ast.String, path: Path, output: Path) -> str:
    moved = os.path.relpath(os.path.realpath(path.parent / string.value), os.path.realpath(output.parent))
    return show(ast.String(string.span, Path(moved).as_posix()))


def _edited(source: PlanText, edits: list[tuple[Span, str, str]]) -> str:
    """The text with ranges replaced, the last first, and comments above their lines."""
    text, starts = source.text, source.starts
    for span, new, comment in sorted(edits, key=lambda edit: (edit[0].line, edit[0].column), reverse=True):
        begin, end = starts[span.line - 1] + span.column - 1, starts[span.end_line - 1] + span.end_column - 1
        text = text[:begin] + new + text[end:]
        if comment:
            head = starts[span.line - 1]
            indent = text[head:begin][: len(text[head:begin]) - len(text[head:begin].lstrip())]
            text = f"{text[:head]}{indent}# {comment}\n{text[head:]}"
    return text
