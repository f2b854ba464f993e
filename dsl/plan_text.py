"""A plan file's text, and the way from positions in it to spans."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from ..compiler.diagnostics.diagnostic import Label, Span, fail
from ..compiler.diagnostics.nearest import nearest

MAX_BYTES = 256 << 10  # a plan is written by a person; what is larger is some other file


@dataclass(frozen=True)
class PlanText:
    """The text of one plan file and the name it is shown under."""

    file: str
    text: str
    starts: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = [0] + [i + 1 for i, c in enumerate(self.text) if c == "\n"]
        object.__setattr__(self, "starts", starts)

    def span(self, start: int, stop: int) -> Span:
        """The lines and columns (from 1) of the characters [start, stop)."""
        line, column = self._place(start)
        end_line, end_column = self._place(max(start, stop))
        return Span(self.file, line, column, end_line, end_column)

    def _place(self, position: int) -> tuple[int, int]:
        line = bisect_right(self.starts, position)
        return line, position - self.starts[line - 1] + 1


def read_plan(path: Path, file: str, at: Span | None = None) -> PlanText:
    """Read a plan file; `at` is the line that named it, None for the plan itself."""
    try:
        with path.open("rb") as stream:
            return PlanText(file, decode_plan(stream, file, at))
    except FileNotFoundError:
        fail("E0301", f"there is no file `{file}`", at, help=missing_help(path, at is not None))
    except IsADirectoryError:
        fail("E0302", f"`{file}` is a folder, not a plan", at)
    except OSError as error:
        fail("E0302", f"`{file}` cannot be read: {(error.strerror or 'unknown reason').lower()}", at)


def decode_plan(stream: BinaryIO, file: str, at: Span | None = None) -> str:
    """The text of a plan from an open file: at most as long as a plan may be, in UTF-8."""
    raw = stream.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        fail("E0009", f"`{file}` is larger than any plan ({MAX_BYTES >> 10} KiB at most)", at)
    return _decode(raw, file)


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
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        at = Label(Span(file, line, column, line, column + 1), f"the byte {raw[error.start]:#04x}")
        fail("E0004", f"`{file}` is not UTF-8 text", at, help="a plan is text in UTF-8")


def what_is(path: Path) -> Literal["file", "folder"] | None:
    """What is at `path`; None also for a path that no file system takes."""
    try:
        return "folder" if path.is_dir() else "file" if path.is_file() else None
    except OSError:
        return None


def text_for_frames(path: Path) -> str:
    """As much of a file that is no plan as a diagnostic can show."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""
