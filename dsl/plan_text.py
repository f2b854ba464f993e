"""A plan file's text, and the way from positions in it to spans."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..compiler.diagnostics.diagnostic import Label, Span, fail
from ..compiler.diagnostics.nearest import nearest
from ..compiler.diagnostics.visible import line_starts
from ..compiler.files.plain_file import kind

MAX_BYTES = 256 << 10  # a plan is written by a person; what is larger is some other file


@dataclass(frozen=True)
class PlanText:
    """The text of one plan file and the name it is shown under."""

    file: str
    text: str
    starts: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", line_starts(self.text))

    def span(self, start: int, stop: int) -> Span:
        """The lines and columns (from 1) of the characters [start, stop)."""
        line = bisect_right(self.starts, start)
        first = self.starts[line - 1]
        if line == len(self.starts) or stop < self.starts[line]:  # on one line, as nearly all are
            return Span(self.file, line, start - first + 1, line, max(start, stop) - first + 1)
        end_line, end_column = self._place(max(start, stop))
        return Span(self.file, line, start - first + 1, end_line, end_column)

    def _place(self, position: int) -> tuple[int, int]:
        line = bisect_right(self.starts, position)
        return line, position - self.starts[line - 1] + 1


def read_plan(path: Path, file: str, at: Span | None = None) -> PlanText:
    """Read a plan file; `at` is the line that named it, None for the plan itself."""
    try:
        with _open(path) as stream:
            if wrong := kind(os.fstat(stream.fileno()).st_mode):
                help = "`edgec check -` reads a plan from the standard input" if at is None else None
                fail("E0302", f"`{file}` is {wrong}, not a plan", at, help=help)
            return PlanText(file, decode_plan(stream, file, at))
    except FileNotFoundError:
        fail("E0301", f"there is no file `{file}`", at, help=missing_help(path, at is not None))
    except IsADirectoryError:
        fail("E0302", f"`{file}` is a folder, not a plan", at)
    except (OSError, ValueError) as error:  # ValueError: a path that no system takes
        reason = (getattr(error, "strerror", None) or str(error) or "unknown reason").lower()
        fail("E0302", f"`{file}` cannot be read: {reason}", at)


def _open(path: Path) -> BinaryIO:
    """A file opened without waiting: that of a named pipe would last until somebody writes into it."""
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)


def decode_plan(stream: BinaryIO, file: str, at: Span | None = None) -> str:
    """The text of a plan from an open file: at most as long as a plan may be, in UTF-8."""
    raw = bytearray()
    while len(raw) <= MAX_BYTES and (piece := _read(stream, MAX_BYTES + 1 - len(raw))):
        raw += piece
    if len(raw) > MAX_BYTES:
        fail("E0009", f"`{file}` is larger than any plan ({MAX_BYTES >> 10} KiB at most)", at)
    return _decode(bytes(raw), file)


def _read(stream: BinaryIO, size: int) -> bytes:
    piece = stream.read(size)
    if piece is None:
        raise BlockingIOError(errno.EAGAIN, "there is nothing to read yet")
    return piece


def missing_help(path: Path, written_in_a_plan: bool = True) -> str | None:
    """What stands beside a path that is not there, or what paths are relative to."""
    try:
        near = nearest(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        near = None
    if near:
        return f"there is `{near}` beside it"
    return "paths are relative to the file they are written in" if written_in_a_plan else None


def _decode(raw: bytes, file: str) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        at = Label(Span(file, 1, 1, 1, 2))
        fail("E0004", f"`{file}` is UTF-16 text", at, help="save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig", errors="replace")
        starts = line_starts(before)
        line, column = len(starts), len(before) - starts[-1] + 1
        at = Label(Span(file, line, column, line, column + 1), f"the byte {raw[error.start]:#04x}")
        fail("E0004", f"`{file}` is not UTF-8 text", at, help="a plan is text in UTF-8")


def what_is(path: Path) -> str | None:
    """`file`, `folder`, `named pipe` or `device`: what is at `path`; None also for a path that no file system takes."""
    try:
        return kind(path.stat().st_mode).removeprefix("a ") or "file"
    except (OSError, ValueError):
        return None


def text_for_frames(path: Path) -> str:
    """As much of a file that is no plan as a diagnostic can show."""
    try:
        with _open(path) as stream:
            return (
                ""
                if kind(os.fstat(stream.fileno()).st_mode)
                else _read(stream, MAX_BYTES).decode("utf-8", errors="replace")
            )
    except (OSError, ValueError):
        return ""
