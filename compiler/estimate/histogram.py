"""How long prompts are: the histogram that buckets are chosen for and prefill rates are averaged over.

A file has a line for each length, tokens and how often, and `#` comments:

    # tokens  count
    32        10
    500       25

The default is a convention, not a measurement: questions of a line to a page, most of them short, a tail of documents.
Lengths beyond a model's context are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files.plain_file import open_plain

_DEFAULT = (
    (8, 4), (16, 8), (24, 10), (40, 12), (60, 12), (90, 12), (140, 11), (210, 9), (320, 7), (480, 5), (750, 4),
    (1100, 3), (1700, 2), (2600, 1), (4000, 0.5), (7000, 0.25),
)  # fmt: skip
_LINES, _BYTES = 10_000, 1 << 20


@dataclass(frozen=True)
class Histogram:
    """(tokens, how often) of prompts, lengths ascending; `name`: what it is, for people."""

    rows: tuple[tuple[int, float], ...]
    name: str

    def within(self, context: int) -> Histogram:
        """Those that leave room for one more token; where none does, one prompt of half the context."""
        rows = tuple((tokens, often) for tokens, often in self.rows if tokens < context)
        return Histogram(rows or ((max(1, context // 2), 1.0),), self.name)

    @property
    def tokens(self) -> float:
        """Tokens of all prompts."""
        return sum(tokens * often for tokens, often in self.rows)


DEFAULT = Histogram(_DEFAULT, "the default histogram of prompt lengths")


def read_histogram(path: Path, shown: str) -> Histogram:
    """The histogram in a file; OSError if it cannot be read, ValueError with the reason if it is none."""
    with open_plain(path) as file:
        data = file.read(_BYTES + 1)
    if len(data) > _BYTES:
        raise ValueError(f"it has more than {_BYTES:,} bytes")
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    counted: dict[int, float] = {}
    for number, line in enumerate(lines[: _LINES + 1], 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if words:
            tokens, often = _row(words, number)
            counted[tokens] = counted.get(tokens, 0.0) + often
    if len(lines) > _LINES:
        raise ValueError(f"it has more than {_LINES:,} lines")
    if not sum(counted.values()):
        raise ValueError("it counts no prompt")
    return Histogram(tuple(sorted(counted.items())), f"`{shown}`")


def _row(words: Sequence[str], number: int) -> tuple[int, float]:
    try:
        tokens, often = int(words[0]), float(words[1])
    except (ValueError, IndexError):
        raise ValueError(f"line {number} is not `tokens count`") from None
    if len(words) > 2 or not (0 < tokens < 1 << 24 and 0 <= often < 1e12):
        raise ValueError(f"line {number} is not `tokens count`: a length above 0 and how often it came")
    return tokens, often
