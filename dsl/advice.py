"""What a syntax error most likely is: the way out in a few words, and files of another language.

`advice` looks at the text around the place where the parser stopped and at what it would have taken there.
`foreign` looks at a whole file: YAML or JSON is one mistake, not one in every line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..compiler.diagnostics.diagnostic import PlanError
from ..compiler.plan.parameters import parameters
from ..compiler.registry import find_pass, pass_names
from .scanner import KEYWORDS

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_HYPHENATED = re.compile(rf"{_NAME}(?:-[A-Za-z0-9_]+)+")
_ELLIPSIS = re.compile(r"(\d+)[ \t]*\.\.+[ \t]*(\d+)")
_PERCENT_TIMES = re.compile(r"([0-9][0-9_.]*)[ \t]*%[ \t]*\*?[ \t]*(baseline)?")
_BARE_ARGUMENT = re.compile(rf"({_NAME})[ \t]+({_NAME})[ \t]*$")
_BARE_VALUE = re.compile(rf"({_NAME})[ \t]*\((?:[^()]*,)?\s*({_NAME})\s*$")
_YAML = re.compile(rf"(?:---[^\n]*\n|[ \t]*#[^\n]*\n|[ \t\r]*\n)*[ \t]*(?:- )?{_NAME}[ \t]*:(?:[ \t]|\r?\n|$)")
_TOML = re.compile(rf"(?:[ \t]*#[^\n]*\n|[ \t\r]*\n)*[ \t]*\[\[?{_NAME}(?:\.{_NAME})*\]\]?[ \t]*(?:\r?\n|$)")
_JSON = re.compile(r"\s*[\[{]\s*(?:\"|\{|\[|\}|\])")
_XML = re.compile(r"\s*<[?!A-Za-z]")
_SHOWN = 80  # characters of a line that are shown again
_FIRST = "a plan begins like `plan chat`; docs/language.md shows a whole one"


@dataclass(frozen=True)
class Found:
    """Where the parser stopped: `text` of the file, the statement's `start`, the `position`, what stood there."""

    text: str
    start: int
    position: int
    found: str
    accepts: frozenset[str]

    @property
    def before(self) -> str:
        """The statement up to the place."""
        return self.text[self.start : self.position]

    @property
    def line(self) -> str:
        """The rest of the line, the place included."""
        return self.text[self.position :].split("\n", 1)[0]


def foreign(text: str) -> tuple[str, str] | None:
    """(what the file looks like, help) where it is written in another language; None for a plan."""
    if _JSON.match(text):
        return "JSON", _FIRST
    if _XML.match(text):
        return "XML", _FIRST
    if _TOML.match(text):
        return "TOML", _FIRST
    if _YAML.match(text):
        return "YAML", f"{_FIRST}: names and values stand without `:`, settings as `key = value`"
    return None


def advice(at: Found) -> str | None:
    """The help line of a syntax error; None where nothing better is known than what was expected."""
    found, accepts = at.found, at.accepts
    return (
        _deployed(at)
        or _signs_of_others(at)
        or _arguments(at)
        or _bare_value(at)
        or ("settings in braces stand without commas" if found == "," and _wants_setting(accepts) else None)
        or ("write `key = value`" if found in (":", ",", ")") and "EQUAL" in accepts else None)
        or ("a requirement compares with `<=` or `>=`" if found == "=" and "COMPARE" in accepts else None)
        or _separated(found, accepts)
        or _without_braces(at)
    )


def _bare_value(at: Found) -> str | None:
    """A step's argument that is a value without its key: `quantize (w4a16)`."""
    if at.found not in (",", ")") or "EQUAL" not in at.accepts or (bare := _BARE_VALUE.search(at.before)) is None:
        return None
    step, word = bare[1], bare[2]
    if step not in pass_names():
        return None
    try:
        known = parameters(find_pass(step))
    except PlanError:
        return None
    for one in known:
        meant = {key.replace("_", ""): text for key, text in one.meant.items()}.get(word.lower().replace("_", ""))
        if meant is not None and "=" in meant:
            return f"write `{meant}`"
        if word in one.choices:
            return f"write `{one.name} = {word}`"
    return None


def _wants_setting(accepts: frozenset[str]) -> bool:
    return "COMMA" not in accepts and "WORD" in accepts


def _separated(found: str, accepts: frozenset[str]) -> str | None:
    if "COMMA" in accepts and (found[:1].isalnum() or found[:1] == '"'):
        return "separate arguments and list items with `,`"
    return None


def _without_braces(at: Found) -> str | None:
    """A statement of several lines, written in one: `require perplexity <= 9`."""
    if at.accepts != {"LBRACE"}:
        return None
    said = f"{at.before.strip()} {{ {at.line.split('#', 1)[0].strip() or '…'} }}"
    return f"write `{said}`" if len(said) <= _SHOWN else "what belongs to it stands in braces: `{ … }`"


def _deployed(at: Found) -> str | None:
    """A deploy line with another word in the place of `on`, or an engine's name that is none of a target."""
    if "ON" in at.accepts and re.fullmatch(r"deploy\s+\w+\s+", at.before) and at.found in ("to", "at", "for", "in"):
        return f"write `on` for `{at.found}`"
    if re.fullmatch(r"deploy\b.*\bas\s+\w+", at.before, re.DOTALL) and at.found in (".", "-"):
        return "a target is one word behind `as`, such as `mnn`; `edgec explain E0104` says where they come from"
    return None


def _signs_of_others(at: Found) -> str | None:
    """Ways of writing that other languages have."""
    if at.found == "/":
        return "a comment begins with `#`"
    if at.found == "-":
        begin = at.position - len(re.search(r"[A-Za-z0-9_]*$", at.before)[0])  # type: ignore[index]  # always matches
        name = _HYPHENATED.match(at.text, begin)
        return f"names have `_` where others have `-`: write `{name[0].replace('-', '_')}`" if name else None
    if at.found == ".":
        begin = at.position - len(re.search(r"\d*$", at.before)[0])  # type: ignore[index]  # always matches
        span = _ELLIPSIS.match(at.text, begin)
        return f"a list names its values: write `[{span[1]}, {span[2]}]`" if span else None
    if at.found == "*":
        begin = at.position - len(re.search(r"[0-9_.]*[ \t]*%?[ \t]*$", at.before)[0])  # type: ignore[index]
        percent = _PERCENT_TIMES.match(at.text, begin)
        return f"write `{float(percent[1].replace('_', '')) / 100:g} * baseline`" if percent else None
    if at.found == "=" and (word := at.before.strip()) in KEYWORDS:
        value = re.match(r"=[ \t]*([^\s#]+)", at.line)
        return f"write `{word} {value[1] if value else 'NAME'}`, without `=`"
    if at.found == ":" and (word := at.before.strip()) in KEYWORDS:
        return f"a `{word}` statement has no `:`"
    return None


def _arguments(at: Found) -> str | None:
    """A step's arguments in braces, or bare."""
    if at.found == "{" and "LPAR" in at.accepts:
        name = re.search(rf"({_NAME})[ \t]*$", at.before)
        return f"arguments stand in parentheses: `{name[1] if name else 'pass'} (key = value)`"
    if at.found == "=" and {"LPAR", "RBRACE"} <= at.accepts and (bare := _BARE_ARGUMENT.search(at.before)):
        value = re.match(r"=[ \t]*([^\s,#})]+)", at.line)
        return f"arguments stand in parentheses: `{bare[1]} ({bare[2]} = {value[1] if value else 'value'})`"
    return None
