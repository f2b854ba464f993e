"""What edgec says when something is wrong, and how it is shown.

A `Diagnostic` is a code, one sentence, the place it is about (`at`), other places that explain it (`also`)
and the fix (`help`). `render` draws it with the plan's own lines; `to_json` is the form for programs.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NoReturn

from .explain import ways_out
from .foreign_code import described
from .visible import columns, framed, shortened, source_lines, visible

Severity = Literal["error", "warning", "note"]

_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "note": "\x1b[1;36m"}
_BLUE, _BOLD, _RESET = "\x1b[1;34m", "\x1b[1m", "\x1b[0m"
_NO_ROOM = "make room there, or write to another disk"
_WIDTH = 160  # a frame line longer than this is cut around the marked place


@dataclass(frozen=True, order=True)
class Span:
    """A range of a file's text; lines and columns count from 1, `end_column` is exclusive."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Label:
    """A marked range of a plan's text, with the words written under it."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One error, warning or note: its code, sentence, place, further places, and the fix in `help`."""

    code: str
    message: str
    at: Label | None = None
    also: tuple[Label, ...] = ()
    help: str | None = None
    severity: Severity = "error"
    accepted: str | None = None  # of a warning: why the plan accepts it
    models: tuple[str, ...] = ()  # of a warning: the deployed models it is about; empty: the plan as a whole

    def __str__(self) -> str:
        return render(self)

    @property
    def way_out(self) -> str | None:
        """What to do: `help`, or what goes for every case of the code."""
        return self.help or ways_out().get(self.code)


class EdgecError(Exception):
    """A failure the user can read: `str()` gives its diagnostics without code frames, which need `sources`."""

    exit_code = 1

    def __init__(self, *diagnostics: Diagnostic, sources: Mapping[str, str] | None = None) -> None:
        super().__init__(*diagnostics)
        self.diagnostics = diagnostics
        self.sources: Mapping[str, str] = sources or {}

    def __str__(self) -> str:
        return "\n".join(render(diagnostic) for diagnostic in self.diagnostics)


class PlanError(EdgecError):
    """The plan, or an input that it names, is wrong."""

    exit_code = 1


class RequirementError(EdgecError):
    """Something that has to hold does not."""

    exit_code = 3


class EngineError(EdgecError):
    """An engine or a tool failed."""

    exit_code = 4


def fail(
    code: str,
    message: str,
    at: Label | Span | None = None,
    also: Iterable[Label] = (),
    help: str | None = None,
    kind: type[EdgecError] = PlanError,
) -> NoReturn:
    """Raise `kind` with one diagnostic."""
    label = Label(at) if isinstance(at, Span) else at
    raise kind(Diagnostic(code, message, label, tuple(also), help))


@contextmanager
def blamed_on(span: Span | None) -> Iterator[None]:
    """Let an `EdgecError` of the block whose diagnostics name no place in the plan point at `span`, if there is one."""
    try:
        yield
    except EdgecError as error:
        if span is None:
            raise
        placed = [found if found.at is not None else replace(found, at=Label(span)) for found in error.diagnostics]
        raise type(error)(*placed) from error


@contextmanager
def framed_in(sources: Mapping[str, str]) -> Iterator[None]:
    """Give an error raised within the texts its places are in, `sources` (text by file), where it has none."""
    try:
        yield
    except EdgecError as error:
        error.sources = error.sources or sources
        raise


def _edgec_cause(problem: BaseException) -> EdgecError | None:
    """The error of ours that a library has wrapped in one of its own: weights are read inside its writers."""
    seen: BaseException | None = problem
    while seen is not None and not isinstance(seen, EdgecError):
        seen = seen.__cause__
    return seen


def explain_failure(problem: BaseException) -> EdgecError:
    """What a command says of an exception that nobody below it foresaw: the system's refusal, or a fault of edgec."""
    if (inner := _edgec_cause(problem)) is not None:
        return inner
    if isinstance(problem, OSError) and problem.strerror:
        where = f"`{problem.filename}`" if problem.filename else "a file"
        reason = problem.strerror[:1].lower() + problem.strerror[1:]
        help = _NO_ROOM if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else None
        return PlanError(Diagnostic("E0955", f"{where} cannot be read or written: {reason}", help=help))
    step = problem.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    place = f" in {step.tb_frame.f_code.co_filename}:{step.tb_lineno}" if step else ""
    message = f"edgec itself failed: {described(problem)}{place}"
    return EngineError(Diagnostic("E0993", message, help="`--debug` shows the stack trace; please report it"))


def render(diagnostic: Diagnostic, sources: Mapping[str, str] | None = None, color: bool = False) -> str:
    """The diagnostic as text, with code frames for the labels whose file is in `sources`."""
    paint = _Paint(color)
    head = paint(_COLOURS[diagnostic.severity], f"{diagnostic.severity}[{diagnostic.code}]")
    lines = [f"{head}: {paint(_BOLD, _sentence(diagnostic.message))}"]
    labels = ([diagnostic.at] if diagnostic.at else []) + list(diagnostic.also)
    framed = [label for label in labels if sources and label.span.file in sources]
    numbers = [number for label in framed for number in _shown(label.span)]
    gutter = len(str(max(numbers, default=1)))
    for index, file in enumerate(dict.fromkeys(label.span.file for label in labels)):
        here = [label for label in labels if label.span.file == file]
        arrow = "-->" if index == 0 else ":::"
        lines.append(f"{' ' * gutter}{paint(_BLUE, arrow)} {shortened(visible(str(here[0].span)))}")
        if sources and file in sources:
            primary = diagnostic.at if diagnostic.at in here else None
            lines += _frame(here, primary, sources[file], gutter, paint, diagnostic.severity)
        else:
            texts = [shortened(visible(label.text)) for label in here if label.text]
            lines += [f"{' ' * gutter} {paint(_BLUE, '=')} {text}" for text in texts]
    if diagnostic.way_out:
        first, *rest = shortened(visible(diagnostic.way_out, lines=True)).split("\n")
        lines.append(f"{' ' * gutter} {paint(_BLUE, '=')} {paint(_BOLD, 'help')}: {first}")
        lines += [f"{' ' * gutter}         {line}" for line in rest]
    return "\n".join(lines)


def to_json(diagnostics: Iterable[Diagnostic]) -> list[dict[str, object]]:
    """The diagnostics as plain JSON values, in the order given."""
    return [
        {
            "code": diagnostic.code,
            "severity": diagnostic.severity,
            "message": diagnostic.message,
            "at": _label_json(diagnostic.at) if diagnostic.at else None,
            "also": [_label_json(label) for label in diagnostic.also],
            "help": diagnostic.way_out,
            **({"accepted": diagnostic.accepted} if diagnostic.accepted else {}),
        }
        for diagnostic in diagnostics
    ]


def _label_json(label: Label) -> dict[str, object]:
    span = label.span
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
        "text": label.text,
    }


def _sentence(message: str) -> str:
    """A message as text: of its line breaks only those stay behind which an indented quotation follows."""
    return shortened("\n    ".join(visible(part) for part in message.split("\n    ")))


class _Paint:
    def __init__(self, on: bool) -> None:
        self.on = on

    def __call__(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self.on else text


def _shown(span: Span) -> range:
    """Of a range of several lines only the first is shown."""
    return range(span.line, span.line + 1)


def _frame(
    labels: list[Label], primary: Label | None, source: str, gutter: int, paint: _Paint, severity: str
) -> list[str]:
    """The source lines that `labels` are on, each followed by its marks, lines left out shown as `...`."""
    text = source_lines(source)
    bar = paint(_BLUE, "|")
    out = [f"{' ' * gutter} {bar}"]
    previous: int | None = None
    for number in sorted({label.span.line for label in labels}):
        if previous is not None and number > previous + 1:
            out.append(paint(_BLUE, "..."))
        previous = number
        line = text[number - 1] if number <= len(text) else ""
        here = sorted((x for x in labels if x.span.line == number), key=lambda x: x.span.column)
        start, shown = _cut(line, here[0].span.column - 1)
        out.append(f"{paint(_BLUE, str(number).rjust(gutter))} {bar} {framed(shown)}".rstrip())
        for label in here:
            mark = "^" if label is primary else "-"
            begin = max(label.span.column - 1 - start, 0)
            stop = label.span.end_column - 1 - start if label.span.end_line == number else len(shown)
            width = max(columns(framed(shown[begin : min(stop, len(shown))])), 1)
            indent = " " * columns(framed(shown[:begin]))
            colour = _COLOURS[severity] if label is primary else _BLUE
            note = f"{mark * width} {shortened(visible(label.text))}".rstrip()
            out.append(f"{' ' * gutter} {bar} {indent}{paint(colour, note)}")
    out.append(f"{' ' * gutter} {bar}")
    return out


def _cut(line: str, column: int) -> tuple[int, str]:
    """The part of an overlong line around `column`, and where it starts."""
    if len(line) <= _WIDTH:
        return 0, line
    start = max(0, min(column - _WIDTH // 2, len(line) - _WIDTH))
    return start, line[start : start + _WIDTH]
