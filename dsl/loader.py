"""A plan with everything it includes and uses: one list of statements, and the passes of `use`d files.

Only `use` executes anything, and only the file it names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..compiler.diagnostics.diagnostic import Label, PlanError, Span
from ..compiler.diagnostics.foreign_code import ForeignFailure, foreign_code
from ..compiler.diagnostics.visible import source_lines
from ..compiler.pipeline.pass_interface import Pass
from ..compiler.registry import pass_fault, pass_names
from . import ast
from .diagnostic_collector import DiagnosticCollector
from .parser import Lost, parse
from .plan_text import PlanText, missing_help, read_plan, what_is


@dataclass
class Loaded:
    """Everything read for one plan: statements, texts for code frames, passes from `use`d files."""

    statements: list[ast.Statement] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    passes: dict[str, type[Pass]] = field(default_factory=dict)
    passes_unknown: bool = False  # a `use`d file failed: its passes are no typing mistakes

    def lost_names(self, keyword: str) -> set[str]:
        """Names of statements of kind `keyword` that could not be read."""
        return {lost.name for lost in self.lost if lost.keyword == keyword}

    @property
    def gave_up(self) -> bool:
        """Reading stopped early, so a missing declaration says nothing."""
        return any(lost.keyword == "*" for lost in self.lost)


def load(path: Path, report: DiagnosticCollector, text: str | None = None) -> Loaded:
    """Read the plan at `path`, or `text` as if it were there; PlanError when there is no text to read at all."""
    loaded = Loaded()
    source = read_plan(path, str(path)) if text is None else PlanText(str(path), text)
    _read(source, path, loaded, report)
    return loaded


def resolve_path(text: str, span: Span) -> Path:
    """A path in a plan is relative to the file it is written in."""
    return Path(span.file).parent / text


@dataclass
class _Reading:
    """One file of a plan that is being read: the statements that are left, and the files that led to it."""

    rest: Iterator[ast.Statement]
    real: str


def _read(source: PlanText, path: Path, loaded: Loaded, report: DiagnosticCollector) -> None:
    """Read a file and, each in its place, the files that it includes; as deep as they go, without recursion."""
    seen: set[str] = set()
    chain = [_begin(source, path, loaded, report, seen)]
    while chain:
        statement = next(chain[-1].rest, None)
        if statement is None:
            chain.pop()
        elif isinstance(statement, ast.Include):
            included = _include(statement, [one.real for one in chain], loaded, report, seen)
            chain += [included] if included is not None else []
        elif isinstance(statement, ast.Use):
            _use(statement, loaded, report)
        else:
            loaded.statements.append(statement)


_MEND = "the file itself fails; docs/writing-passes.md shows one that works"


def _begin(source: PlanText, path: Path, loaded: Loaded, report: DiagnosticCollector, seen: set[str]) -> _Reading:
    loaded.sources[source.file] = source.text
    real = os.path.realpath(path)
    seen.add(real)
    parsed = parse(source)
    report.diagnostics += parsed.problems
    loaded.lost += parsed.lost
    return _Reading(iter(parsed.file.statements), real)


def _include(
    statement: ast.Include, chain: list[str], loaded: Loaded, report: DiagnosticCollector, seen: set[str]
) -> _Reading | None:
    path = resolve_path(statement.path.value, statement.path.span)
    real = os.path.realpath(path)
    if real in chain:
        circle = " -> ".join(Path(file).name for file in (*chain[chain.index(real) :], path))
        help = "leave out this one: what a file includes is part of it already"
        report.error("E0303", f"includes go in a circle: {circle}", statement.span, help=help)
    elif real not in seen:  # what two files share is read once
        try:
            source = read_plan(path, str(path), statement.path.span)
        except PlanError as error:
            report.take(error, statement.path.span)
            loaded.lost.append(Lost("*", "*"))
        else:
            return _begin(source, path, loaded, report, seen)
    return None


def _use(statement: ast.Use, loaded: Loaded, report: DiagnosticCollector) -> None:
    try:
        with foreign_code():
            _execute(statement, loaded, report)
    except ForeignFailure as failure:
        path = resolve_path(statement.path.value, statement.path.span)
        _failed(path, failure, statement.path.span, loaded, report)


def _execute(statement: ast.Use, loaded: Loaded, report: DiagnosticCollector) -> None:
    path = resolve_path(statement.path.value, statement.path.span)
    at = statement.path.span
    if (found := what_is(path)) != "file":
        if found is None:
            report.error("E0301", f"there is no file `{path}`", at, help=missing_help(path))
        else:
            report.error("E0302", f"`{path}` is a {found}, not a file", at, help="`use` takes a file that ends in .py")
        loaded.passes_unknown = True
        return
    name = f"edgec_plan_{hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        report.error("E0302", f"`{path}` is not a Python file", at, help="`use` takes a file that ends in .py")
        loaded.passes_unknown = True
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Pass)]
    own = [cls for cls in dict.fromkeys(found) if _belongs(cls, name, found)]
    if not own:
        report.error("E0305", f"`{path}` defines no pass", at, help="a pass is a subclass of `Pass`")
    for cls in own:
        _register(cls, path, at, loaded, report)


def _belongs(cls: type[Pass], module: str, all_: list[type[Pass]]) -> bool:
    """Whether the file brings `cls`: not edgec's or a plug-in's that it imports, not a base of its own passes."""
    named = getattr(cls, "name", None)
    if cls.__module__ != module and (cls.__module__.startswith("edgec.") or named in pass_names()):
        return False
    return named is not None or not any(other is not cls and issubclass(other, cls) for other in all_)


def _register(cls: type[Pass], path: Path, at: Span, loaded: Loaded, report: DiagnosticCollector) -> None:
    fault = pass_fault(cls)
    if fault is not None:
        loaded.passes_unknown = True
        message = f"`{path}` holds a pass that cannot be used: {fault}"
        report.error("E0304", message, at, help="docs/writing-passes.md shows a whole one")
    elif cls.name in pass_names() or loaded.passes.get(cls.name, cls) is not cls:
        message = f"there is already a pass named `{cls.name}`"
        report.error("E0119", message, at, f"`{cls.__name__}` in this file takes the name", help="give it another name")
    else:
        loaded.passes[cls.name] = cls


def _failed(path: Path, failure: ForeignFailure, at: Span, loaded: Loaded, report: DiagnosticCollector) -> None:
    """The mistake is in the used file: show its line there, and the `use` that brought it."""
    loaded.passes_unknown = True
    message = f"`{path}` cannot be used: {failure}"
    where = _line_of(path, failure.error)
    text = source_lines(path.read_text(encoding="utf-8", errors="replace")) if where else []
    if where is None or not 0 < where <= len(text):
        report.error("E0304", message, at, help=_MEND)
        return
    loaded.sources[str(path)] = "\n".join(text)
    line = text[where - 1]
    column = len(line) - len(line.lstrip()) + 1
    span = Span(str(path), where, column, where, max(len(line.rstrip()) + 1, column + 1))
    report.error("E0304", message, span, also=[Label(at, "used here")], help=_MEND)


def _line_of(path: Path, error: BaseException) -> int | None:
    """Where in the file itself the error arose, the innermost place."""
    if isinstance(error, SyntaxError) and _same(error.filename, path):
        return error.lineno
    steps = BaseException.__dict__["__traceback__"].__get__(error)  # whatever its class makes of the name
    frames = [frame.lineno for frame in traceback.extract_tb(steps) if _same(frame.filename, path)]
    return frames[-1] if frames else None


def _same(filename: str | None, path: Path) -> bool:
    return filename is not None and os.path.realpath(filename) == os.path.realpath(path)
