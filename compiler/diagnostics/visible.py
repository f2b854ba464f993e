"""Text of inputs as it is safe to show: nothing in it moves the cursor, changes colours or turns the line around."""

from __future__ import annotations

import functools
import re

_PLAIN = re.compile(r"[ -~]*")
_TAB = "    "
_LONGEST_VALUE, _KEPT = 240, 80  # characters of a value in backquotes; of its beginning and its end
_LONGEST = 4000  # characters of a whole message
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_VALUE = re.compile(rf"`([^`\n]{{{_LONGEST_VALUE},}})`")


def visible(text: str, lines: bool = False) -> str:
    """`text` with every character shown that a terminal would obey or not show: `\\x1b`, `\\u202e`, `\\n`.

    With `lines`, line breaks and tabs stay: for text that is laid out already.
    """
    if _PLAIN.fullmatch(text):
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else _escape(c) for c in text)


def json_visible(text: str) -> str:
    """A JSON document whose strings hold no such character as it is, but as JSON's escape."""
    if _PLAIN.fullmatch(text.replace("\n", "")):
        return text
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def shortened(text: str) -> str:
    """`text` with overlong values in backquotes, and then the whole, cut in the middle."""
    if len(text) <= _LONGEST_VALUE:
        return text
    text = _VALUE.sub(lambda match: f"`{_cut(match[1], _KEPT)}`", text)
    return text if len(text) <= _LONGEST else _cut(text, _LONGEST // 2)


def line_starts(text: str) -> list[int]:
    """Where the lines of a source begin; a line ends with LF, CR LF or CR."""
    return [0, *(match.end() for match in _LINE_BREAK.finditer(text))]


@functools.lru_cache(8)
def source_lines(text: str) -> list[str]:
    """The lines of a source without their ends."""
    return _LINE_BREAK.split(text)


def columns(text: str) -> int:
    """Columns that printable text takes on a terminal: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(_columns(c) for c in text)


def framed(text: str) -> str:
    """A line of a source as a frame shows it: tabs become blanks, what cannot be shown a placeholder."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_TAB if c == "\t" else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _columns(c: str) -> int:
    import unicodedata  # `check` of plain text does without

    if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1


def _cut(text: str, kept: int) -> str:
    return f"{text[:kept]} … {len(text) - 2 * kept} characters … {text[-kept:]}"


def _escape(c: str) -> str:
    shown = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(c)
    return shown or c.encode("unicode_escape", "surrogatepass").decode("ascii")


def _json_escape(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
