"""From a plan's text to its tree: `parse(source) -> Parsed`.

The scanner cuts the text into statements, Lark's LALR tables read each (`table_driver`), the builder makes the nodes. A
statement that does not parse leaves a `Lost` behind, so that the checker does not call its name undeclared.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..compiler.diagnostics.diagnostic import Diagnostic, Label, PlanError
from ..compiler.diagnostics.nearest import nearest_help
from . import ast
from .advice import Found, advice, foreign
from .builder import TreeBuilder, from_tree
from .plan_text import PlanText
from .scanner import KEYWORDS, MAX_PROBLEMS, Chunk, scan
from .table_driver import TableDriver

if TYPE_CHECKING:
    from lark import Lark

_DECLARES = re.compile(r"(model|pipeline|let|plan|device)[ \t]+(\w+)")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FOUND = re.compile(r'[A-Za-z_][A-Za-z0-9_]*|"[^"\n]*"|[0-9][0-9_.]*|->|[<>=!]=|.', re.S)


@dataclass(frozen=True)
class Lost:
    """A statement that could not be read: its keyword, and the name it would have declared."""

    keyword: str
    name: str


@dataclass
class Parsed:
    """The tree of one file, the statements that could not be read, and why."""

    file: ast.File
    lost: list[Lost] = field(default_factory=list)
    problems: list[Diagnostic] = field(default_factory=list)


@functools.cache
def _lark() -> Lark:
    from .compile_grammar import load

    return load()


@functools.cache
def _driver() -> TableDriver:
    return TableDriver(_lark(), TreeBuilder)


def parse(source: PlanText) -> Parsed:
    """Parse a whole file. Syntax errors are returned in `problems`, at most `MAX_PROBLEMS` of them."""
    if (other := foreign(source.text)) is not None:
        return _other_language(source, *other)
    scanned = scan(source)
    result = Parsed(ast.File(()), problems=list(scanned.problems))
    builder = TreeBuilder(source, result.problems)
    statements: list[ast.Statement] = []
    for chunk in scanned.chunks:
        before = len(result.problems)
        if before >= MAX_PROBLEMS:
            scanned.complete = False
            break
        made = None if chunk.broken else _parse_chunk(source, chunk, builder)
        if made is None or len(result.problems) > before:  # a path with a wrong escape is not also told as missing
            result.lost += _lost(source, chunk)
        else:
            statements += made
    if not scanned.complete:
        result.lost.append(Lost("*", "*"))
    result.file = ast.File(tuple(statements))
    return result


def _other_language(source: PlanText, name: str, help: str) -> Parsed:
    """One diagnostic for the whole file, at its first word."""
    start = len(source.text) - len(source.text.lstrip())
    at = Label(source.span(start, start + max(1, len(_found(source, start)))))
    problem = Diagnostic("E0001", f"this looks like {name}, not like a plan", at, help=help)
    return Parsed(ast.File(()), [Lost("*", "*")], [problem])


def parse_text(text: str, file: str = "plan.edge") -> ast.File:
    """The tree of `text`; raises PlanError with all syntax errors."""
    parsed = parse(PlanText(file, text))
    if parsed.problems:
        raise PlanError(*parsed.problems)
    return parsed.file


def parse_value(text: str, file: str) -> ast.Value:
    """One value alone, as after `-D name=`; raises PlanError."""
    source = PlanText(file, text)
    scanned = scan(source)
    problems = list(scanned.problems)
    if not problems:
        value = _run(source, Chunk(0, len(text)), "value", TreeBuilder(source, problems))
        if value is not None and not problems:
            return value
    raise PlanError(*problems)


def _parse_chunk(source: PlanText, chunk: Chunk, builder: TreeBuilder) -> list[ast.Statement] | None:
    word = _WORD.match(source.text, chunk.start)
    if word is None:
        found = _found(source, chunk.start)
        at = Label(source.span(chunk.start, chunk.start + len(found)))
        builder.problems.append(Diagnostic("E0001", f"a statement cannot begin with `{found}`", at))
        return None
    if word.group() not in KEYWORDS:
        at = Label(source.span(*word.span()), "no statement begins like this")
        help = nearest_help(word.group(), KEYWORDS, "statement") or f"statements are: {', '.join(KEYWORDS)}"
        builder.problems.append(Diagnostic("E0101", f"unknown statement `{word.group()}`", at, help=help))
        return None
    return _run(source, chunk, "plan", builder)


def _run(source: PlanText, chunk: Chunk, start: str, builder: TreeBuilder) -> Any:
    """What the builder makes of one chunk; None where it is no `start`, and why is among the problems."""
    before = len(builder.problems)
    made = _driver().parse(source.text, chunk.start, chunk.stop, start, builder)
    if made is not None:
        return made
    del builder.problems[before:]  # of parts of a statement that does not read as one
    tree = by_lark(source, chunk, start, builder.problems)
    return None if tree is None else from_tree(tree, builder)


def by_lark(source: PlanText, chunk: Chunk, start: str, problems: list[Diagnostic]) -> Any:
    """Lark's tree of one chunk, or None and why there is none."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
    from lark.utils import TextSlice

    try:
        return _lark().parse(TextSlice(source.text, chunk.start, chunk.stop), start=start)
    except UnexpectedToken as error:
        accepts: set[str] = error.interactive_parser.accepts() if error.interactive_parser else set()
        ended = error.token.type == "$END"
        position = chunk.stop if ended else error.token.start_pos or 0
        problems.append(_unexpected(source, chunk, position, ended, accepts))
    except UnexpectedCharacters as error:
        # `error.allowed` would be what may follow in any statement: the parser's state knows the one at hand
        accepts = error.interactive_parser.accepts() if error.interactive_parser else set()
        problems.append(_unexpected(source, chunk, error.pos_in_stream, False, accepts))
    except UnexpectedInput as error:
        problems.append(_unexpected(source, chunk, error.pos_in_stream or chunk.start, False, set()))
    return None


_VALUES = {"INTEGER", "DECIMAL", "QUANTITY", "PERCENT", "PATTERN", "STRING", "TRUE", "FALSE", "LSQB"}
_SIGNS = {
    "EQUAL": "`=`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "ARROW": "`->`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "RSQB": "`]`",
    "ON": "`on`",
    "THROUGH": "`through`",
    "AS": "`as`",
    "EXCEPT": "`except`",
    "COMPARE": "`<=` or `>=`",
    "STRING": "a string",
    "STAR": "`*`",
}


def _unexpected(source: PlanText, chunk: Chunk, position: int, ended: bool, accepts: set[str]) -> Diagnostic:
    """What was found where, and in a few words what would have been right there."""
    found = "" if ended else _found(source, position)
    where = max(position - 1, 0) if ended else position
    width = max(len(found), 1)
    if found in (",", ")") and "EQUAL" in accepts and (word := _word_before(source, chunk, position)):
        where, width = word  # `quantize (int4, 32)`: the mistake is the word that is no key, not the comma
    message = "the statement ends too early" if ended else f"unexpected `{found}`"
    if (where, width) != (position, width) and not ended:
        message = f"`{source.text[where : where + width]}` has no value"
    expected = "" if found in ("-", ".", "*") else _expected(accepts)  # there the sign is wrong, not what is missing
    at = Label(source.span(where, where + width), expected)
    found_at = Found(source.text, chunk.start, position, found, frozenset(accepts))
    return Diagnostic("E0001", message, at, help=advice(found_at))


def _word_before(source: PlanText, chunk: Chunk, position: int) -> tuple[int, int] | None:
    """(start, length) of the word that ends right before `position`."""
    text = source.text[chunk.start : position].rstrip()
    match = re.search(r"[A-Za-z_][A-Za-z0-9_]*$", text)
    return (chunk.start + match.start(), len(match[0])) if match else None


def _expected(accepts: set[str]) -> str:
    if accepts >= {"INTEGER", "STRING", "WORD"}:
        return "expected a value"
    if {"COMMA", "RPAR"} <= accepts or {"COMMA", "RSQB"} <= accepts:
        return f"expected `,` or {_SIGNS['RPAR' if 'RPAR' in accepts else 'RSQB']}"
    if {"COMMA", "RBRACE"} <= accepts:
        return "expected `,` or `}`"
    if accepts >= {"INTEGER", "DECIMAL"}:
        return "expected a number"
    names = (["a name"] if "WORD" in accepts else []) + [_SIGNS[x] for x in _SIGNS if x in accepts]
    if "$END" in accepts and not names:
        return "expected the next statement"
    return f"expected {' or '.join(names)}" if 0 < len(names) <= 3 else ""


def _found(source: PlanText, position: int) -> str:
    match = _FOUND.match(source.text, position)
    return (match.group() if match else "")[:40]


def _lost(source: PlanText, chunk: Chunk) -> list[Lost]:
    text = source.text[chunk.start : min(chunk.stop, chunk.start + 2000)]
    word = re.match(r"\s*(\w*)", text)  # a form feed is a blank here, and none of the scanner's
    return [Lost(*match.groups()) for match in _DECLARES.finditer(text)] or [Lost(word[1] if word else "", "")]
