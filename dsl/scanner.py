"""Cut a plan into statements, before anything is parsed.

The scanner knows strings, comments, words and brackets, nothing else. It makes two things possible: an error in
one statement does not hide those in others, and nesting is bounded before a parser sees it. It runs in time
linear in the text and stops at `MAX_PROBLEMS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..compiler.diagnostics.diagnostic import Diagnostic, Label
from .plan_text import PlanText

MAX_DEPTH = 16
MAX_PROBLEMS = 20
MAX_WORD = 200

KEYWORDS = (
    "plan",
    "let",
    "include",
    "use",
    "device",
    "model",
    "calibration",
    "evaluation",
    "pipeline",
    "deploy",
    "speculate",
    "require",
    "goal",
)
_JOINING = {"on", "through", "as", "except", "=", "->", ">"}

_TOKEN = re.compile(
    r"(?P<blank>[ \t\r\n]+)|(?P<comment>#[^\r\n]*)"
    r'|(?P<string>"(?:[^"\\\r\n]|\\[^\r\n])*")|(?P<open_string>"[^\r\n]*)|(?P<quoted>\'[^\'\r\n]*\')'
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<numbers>[0-9][0-9_., \t]*)"
    r"|(?P<opening>[{(\[])|(?P<closing>[})\]])|(?P<sign>->|[=,.*<>!+\-:%/])|(?P<other>(?s:.))"
)
# What the beginning of a statement looks like, to tell one from a setting inside an unclosed brace.
_STATEMENT = re.compile(
    r"(plan|device)[ \t]+\w+[ \t]*(#|\r|\n|$)|let[ \t]+\w+[ \t]*=|(include|use)[ \t]+\""
    r"|(model|pipeline)[ \t]+\w+[ \t]*\{"
    r"|(calibration|evaluation|require)[ \t]*\{|deploy[ \t]+\w+[ \t]+on\b|speculate[ \t]+\w+[ \t]*->"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CLOSES = {"}": "{", ")": "(", "]": "["}
_INSTEAD = {
    "'": "strings stand in double quotes",
    "“": "use plain double quotes",
    "”": "use plain double quotes",
    "‘": "use plain double quotes",
    "’": "use plain double quotes",
    ";": "statements need no `;` between them",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "→": "write `->`",
    "×": "write `*`",
    "\u00a0": "this is a no-break space: type a plain one",
}


@dataclass
class Chunk:
    """Text of one statement (or several on one line); `broken` when the scanner found a mistake in it."""

    start: int
    stop: int = 0
    broken: bool = False


@dataclass
class Scan:
    """The statements of a file as ranges of its text, and what is wrong at this level."""

    chunks: list[Chunk] = field(default_factory=list)
    problems: list[Diagnostic] = field(default_factory=list)
    complete: bool = True  # False: stopped early


def scan(source: PlanText) -> Scan:
    """Cut the text of `source` into statements."""
    return _Scanner(source).run()


class _Scanner:
    def __init__(self, source: PlanText) -> None:
        self.source = source
        self.result = Scan()
        self.open: list[tuple[str, int]] = []
        self.chunk: Chunk | None = None
        self.previous = ""  # the last token that means something
        self.swallowed = False  # an unclosed string may have taken closing brackets of this statement with it

    def run(self) -> Scan:
        line_first = True
        handlers: dict[str, Callable[[str, int], None]] = {
            "opening": self._opening,
            "closing": self._closing,
            "open_string": self._open_string,
            "other": self._other,
            "quoted": self._quoted,
            "string": self._text,
            "word": self._word,
        }
        stop = 0
        for match in _TOKEN.finditer(self.source.text):
            kind, text, position = match.lastgroup or "", match.group(), match.start()
            if kind == "blank":
                line_first = line_first or "\n" in text or "\r" in text
                continue
            if kind == "comment":
                self._text(text, match.start())
                continue
            if kind == "word" and line_first:
                self._line_begins(text, position, stop)
            line_first = False
            if self.chunk is None:
                self._begin(position, stop)
            if kind in handlers:
                handlers[kind](text, position)
            if kind == "numbers":  # a list of them at once
                text = text.rstrip(" \t")
            stop = position + len(text)
            self.previous = text
            if not self.result.complete or len(self.result.problems) >= MAX_PROBLEMS:
                self.result.complete = False
                break
        else:
            self._unclosed()
        self._end(stop)
        return self.result

    def _line_begins(self, word: str, position: int, stop: int) -> None:
        if self.open:
            if word in KEYWORDS and _STATEMENT.match(self.source.text, position):
                self._unclosed()
                self.open.clear()
                self._begin(position, stop)
        elif word in KEYWORDS or not (self.previous in KEYWORDS or {self.previous, word} & _JOINING):
            self._begin(position, stop)

    def _begin(self, position: int, stop: int) -> None:
        self._end(stop)
        self.swallowed = False
        self.chunk = Chunk(position)
        self.result.chunks.append(self.chunk)

    def _end(self, stop: int) -> None:
        if self.chunk is not None:
            self.chunk.stop = stop

    def _opening(self, text: str, position: int) -> None:
        self.open.append((text, position))
        if len(self.open) > MAX_DEPTH:
            self._problem("E0005", f"brackets nest deeper than {MAX_DEPTH}", position, 1)
            self.result.complete = False

    def _closing(self, text: str, position: int) -> None:
        if _CLOSES[text] not in {opening for opening, _ in self.open}:
            self._problem("E0006", f"`{text}` closes nothing", position, 1)
            return
        opening, where = self.open.pop()
        if opening != _CLOSES[text]:
            while self.open.pop()[0] != _CLOSES[text]:  # one mistake, however many brackets it leaves open
                pass
            if self.swallowed:
                return
            also = (Label(self.source.span(where, where + 1), "opened here"),)
            self._problem("E0006", f"`{opening}` is closed by `{text}`", position, 1, also=also)

    def _unclosed(self) -> None:
        if self.open and not self.swallowed:
            opening, where = self.open[0]
            closing = next(key for key, value in _CLOSES.items() if value == opening)
            help = f"add the missing `{closing}`"
            self._problem("E0006", f"`{opening}` is never closed", where, 1, help=help)

    def _open_string(self, text: str, position: int) -> None:
        help = 'add the missing `"`; a string ends on the line it begins on'
        self._problem("E0003", "a string is not closed", position, len(text.rstrip()), help=help)
        self.swallowed = True

    def _text(self, text: str, position: int) -> None:
        control = _CONTROL.search(text)
        if control is not None:
            self._other(control.group(), position + control.start())

    def _word(self, text: str, position: int) -> None:
        if len(text) > MAX_WORD:
            self._problem("E0011", f"a name of {len(text)} characters", position, len(text))

    def _quoted(self, text: str, position: int) -> None:
        self._problem("E0002", "`'` is not part of the language", position, len(text), help=_INSTEAD["'"])

    def _other(self, text: str, position: int) -> None:
        shown = f"`{text}`" if text.isprintable() else f"the control character {ord(text):#04x}"
        self._problem("E0002", f"{shown} is not part of the language", position, 1, help=_INSTEAD.get(text))

    def _problem(
        self,
        code: str,
        message: str,
        position: int,
        width: int,
        also: tuple[Label, ...] = (),
        help: str | None = None,
    ) -> None:
        if self.chunk is not None:
            self.chunk.broken = True
        at = Label(self.source.span(position, position + width))
        self.result.problems.append(Diagnostic(code, message, at, also, help))
