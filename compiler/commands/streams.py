"""The streams of the process while a command runs.

    stdout   what the command prints, and nothing else: prints of engines and plug-ins go to stderr
    stderr   diagnostics and progress; nobody fails because it is full or closed

Text of inputs is made visible on its way out: control characters, escape sequences and bidirectional marks are shown,
not obeyed. What stdout's encoding lacks is escaped. A stdout that cannot be written is an error with a name (E0955).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from ..diagnostics.visible import json_visible, visible

_results: list[TextIO] = []  # where the JSON document goes while everything else goes to stderr


@contextlib.contextmanager
def program_streams() -> Iterator[None]:
    """For a whole process: stdout for edgec's own text alone. Descriptors that were closed lead nowhere."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    real, encoding = os.dup(1), getattr(sys.stdout, "encoding", None) or "utf-8"
    terminal = os.isatty(real)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it is None where it was closed
        sys.stdout.flush()
    os.dup2(2, 1)
    sys.stderr = _Lenient(io.FileIO(2, "w", closefd=False), errors="backslashreplace", line_buffering=True)
    binary = io.BufferedWriter(io.FileIO(real, "w"))
    sys.stdout = _Visible(binary, encoding=encoding, errors="backslashreplace", line_buffering=terminal)
    yield


@contextlib.contextmanager
def one_document() -> Iterator[None]:
    """Within the block only `print_json` writes to stdout; every other print goes to stderr."""
    _results.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _results.pop()


def print_line(text: str) -> None:
    """One line of results, whatever the names of inputs in it hold."""
    print(visible(text))


def print_json(value: object) -> None:
    """Print the command's one JSON document."""
    out = _results[-1] if _results else sys.stdout
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(out.encoding or "utf-8")
        text = json_visible(text)
    except UnicodeEncodeError:  # an ASCII terminal, or half a surrogate pair
        text = json.dumps(value, indent=2)
    print(text, file=out)


def print_exactly(text: str) -> None:
    """Print text a model generated: as it is into a file or pipe, made visible on a terminal.

    BrokenPipeError where nobody reads any more: nothing need be generated then.
    """
    out = sys.stdout
    if isinstance(out, _Visible):
        out.exactly(visible(text, lines=True) if out.isatty() else text)
    else:
        print(text, end="", flush=True)


def flush() -> None:
    """Bring what was printed to where it goes; OSError where that cannot be."""
    for stream in (*_results, sys.stdout):
        stream.flush()


def give_up_stdout() -> None:
    """Let what could not be printed lead nowhere, so that the end of the process does not try once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Visible(io.TextIOWrapper):
    """Text with control characters shown. A failure to write names the stream.

    A reader that has seen enough (`| head`) is no failure: the rest leads nowhere, the exit code stays the command's.
    """

    def write(self, text: str, /) -> int:
        with contextlib.suppress(BrokenPipeError), _named():
            return super().write(visible(text, lines=True))
        give_up_stdout()
        return len(text)

    def flush(self) -> None:
        with _named():
            try:
                super().flush()
            except BrokenPipeError:
                give_up_stdout()

    def exactly(self, text: str) -> None:
        """Write and flush at once, nothing made visible; BrokenPipeError where nobody reads any more."""
        with _named():
            super().write(text)
            super().flush()


class _Lenient(io.TextIOWrapper):
    """A stream that nobody fails because of, and that a used file cannot close."""

    def close(self) -> None:
        self.flush()

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().flush()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error
