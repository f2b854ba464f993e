"""What the grammar's rules hold to the nodes of `ast`: literals get their values, everything its span."""

from __future__ import annotations

import math
import re
from typing import Any

from ..compiler.diagnostics.diagnostic import Diagnostic, Label
from ..compiler.plan.parameters import Pattern
from . import ast
from .plan_text import PlanText

_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)")
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t", "r": "\r"}
_QUANTITY = re.compile(r"([^A-Za-z \t]+(?:[eE][+-]?[0-9]+(?![A-Za-z0-9_]))?)[ \t]*(.+)", re.S)
_DRIVE = re.compile(r"[A-Za-z]:\\")
_MAX_DIGITS = 40


class TreeBuilder:
    """One method for each rule: `meta` says where it stands, `children` what it holds. Problems go to the list given.

    Children are nodes, texts of tokens, and None for each part that is left out.
    """

    def __init__(self, source: PlanText, problems: list[Diagnostic]) -> None:
        self.source = source
        self.problems = problems

    def _span(self, meta: Any) -> Any:
        return self.source.span(meta.start_pos, meta.end_pos)

    def _literal(self, meta: Any, children: list[Any]) -> tuple[Any, str]:
        return self._span(meta), str(children[0])

    # statements

    def plan(self, meta: Any, children: list[Any]) -> list[ast.Statement]:
        """A whole file: its statements."""
        return children

    def plan_name(self, meta: Any, children: list[Any]) -> ast.PlanName:
        """`plan NAME`."""
        return ast.PlanName(self._span(meta), *_nodes(children))

    def let(self, meta: Any, children: list[Any]) -> ast.Let:
        """`let NAME = VALUE`."""
        return ast.Let(self._span(meta), *_nodes(children))

    def include(self, meta: Any, children: list[Any]) -> ast.Include:
        """`include "FILE"`."""
        return ast.Include(self._span(meta), *_nodes(children))

    def use(self, meta: Any, children: list[Any]) -> ast.Use:
        """`use "FILE.py"`."""
        return ast.Use(self._span(meta), *_nodes(children))

    def device(self, meta: Any, children: list[Any]) -> ast.Device:
        """`device NAME`."""
        return ast.Device(self._span(meta), *_nodes(children))

    def model(self, meta: Any, children: list[Any]) -> ast.Model:
        """`model NAME { SETTINGS }`."""
        name, *settings = _nodes(children)
        return ast.Model(self._span(meta), name, tuple(settings))

    def calibration(self, meta: Any, children: list[Any]) -> ast.Calibration:
        """`calibration { SETTINGS }`."""
        return ast.Calibration(self._span(meta), tuple(_nodes(children)))

    def evaluation(self, meta: Any, children: list[Any]) -> ast.Evaluation:
        """`evaluation { SETTINGS }`."""
        return ast.Evaluation(self._span(meta), tuple(_nodes(children)))

    def pipeline(self, meta: Any, children: list[Any]) -> ast.Pipeline:
        """`pipeline NAME { STEPS }`."""
        name, *steps = _nodes(children)
        return ast.Pipeline(self._span(meta), name, tuple(steps))

    def step(self, meta: Any, children: list[Any]) -> ast.Step:
        """`PASS(ARGUMENTS) on GLOBS except GLOBS`; None for each part that is left out."""
        name, arguments, on, except_ = children
        return ast.Step(self._span(meta), name, arguments or (), on, except_)

    def deploy(self, meta: Any, children: list[Any]) -> ast.Deploy:
        """`deploy MODEL on PLACE through PIPELINE as TARGET { SETTINGS }`."""
        model, place, through, target, options = [x for x in children if not isinstance(x, str)]
        return ast.Deploy(self._span(meta), model, place, through, target, options or ())

    def speculate(self, meta: Any, children: list[Any]) -> ast.Speculate:
        """`speculate DRAFT -> TARGET { SETTINGS }`."""
        draft, target, options = [x for x in children if not isinstance(x, str)]
        return ast.Speculate(self._span(meta), draft, target, options or ())

    def require(self, meta: Any, children: list[Any]) -> ast.Require:
        """`require { CONDITIONS }`, a goal among them."""
        nodes = _nodes(children)
        goals = tuple(node for node in nodes if isinstance(node, ast.Goal))
        return ast.Require(self._span(meta), tuple(x for x in nodes if not isinstance(x, ast.Goal)), goals)

    def goal(self, meta: Any, children: list[Any]) -> ast.Goal:
        """`goal = SUBJECT`; the subject is a string, as are the keyword and the sign."""
        return ast.Goal(self._span(meta), str(children[-1]))

    # their parts

    def setting(self, meta: Any, children: list[Any]) -> ast.Setting:
        """`KEY = VALUE`."""
        return ast.Setting(self._span(meta), *_nodes(children))

    def options(self, meta: Any, children: list[Any]) -> tuple[ast.Setting, ...]:
        """The settings of a block in braces, or of a step in parentheses."""
        return tuple(_nodes(children))

    arguments = options

    def through(self, meta: Any, children: list[Any]) -> Any:
        """The one node after a keyword, the keyword dropped."""
        return _nodes(children)[0]

    on = except_ = value = through

    def subject(self, meta: Any, children: list[Any]) -> str:
        """`MODEL.perplexity` as one string."""
        return ".".join(name.text for name in _nodes(children))

    def condition(self, meta: Any, children: list[Any]) -> ast.Condition:
        """`SUBJECT <= BOUND`."""
        subject, op, bound = children
        return ast.Condition(self._span(meta), subject, str(op), bound)

    def product(self, meta: Any, children: list[Any]) -> ast.Product:
        """`NUMBER * NAME`."""
        number, name = _nodes(children)
        return ast.Product(self._span(meta), number.value, name)

    def name(self, meta: Any, children: list[Any]) -> ast.Name:
        """An identifier in the place of a name."""
        return ast.Name(*self._literal(meta, children))

    # values

    def word(self, meta: Any, children: list[Any]) -> ast.Word:
        """An identifier in the place of a value."""
        return ast.Word(*self._literal(meta, children))

    def call(self, meta: Any, children: list[Any]) -> ast.Call:
        """`SOURCE("PATH")`."""
        return ast.Call(self._span(meta), *_nodes(children))

    def tuned(self, meta: Any, children: list[Any]) -> ast.Tune:
        """`tune(VALUE, VALUE)`, the value of a `let`."""
        name, *values = _nodes(children)
        if name.text != "tune":
            help = f"`{name.text}` takes one value; values to choose from are `tune(32, 64)`"
            self.problems.append(
                Diagnostic("E0228", f"`{name.text}(…)` of several values", Label(name.span), help=help)
            )
        return ast.Tune(self._span(meta), tuple(values))

    def list(self, meta: Any, children: list[Any]) -> ast.ListLiteral:
        """`[VALUE, VALUE]`."""
        return ast.ListLiteral(self._span(meta), tuple(_nodes(children)))

    def record(self, meta: Any, children: list[Any]) -> ast.RecordLiteral:
        """`{ NAME: VALUE, NAME: VALUE }`."""
        return ast.RecordLiteral(self._span(meta), tuple(_nodes(children)))

    def entry(self, meta: Any, children: list[Any]) -> ast.Entry:
        """`NAME: VALUE` or `"NAME": VALUE`."""
        return ast.Entry(self._span(meta), *_nodes(children))

    def boolean(self, meta: Any, children: list[Any]) -> ast.Boolean:
        """`true` or `false`."""
        return ast.Boolean(self._span(meta), children[0] == "true")

    def pattern(self, meta: Any, children: list[Any]) -> ast.PatternLiteral:
        """`N:M`."""
        span, text = self._literal(meta, children)
        n, m = (self._number(span, part) for part in text.split(":"))
        return ast.PatternLiteral(span, Pattern(int(n), int(m)))

    def integer(self, meta: Any, children: list[Any]) -> ast.Number:
        """A number without a unit, an `int` if it is written without a point."""
        span, text = self._literal(meta, children)
        return ast.Number(span, self._number(span, text))

    decimal = integer

    def percent(self, meta: Any, children: list[Any]) -> ast.Percent:
        """`N%`; the value is as written, not divided by 100."""
        span, text = self._literal(meta, children)
        return ast.Percent(span, self._number(span, text.rstrip("%").rstrip()))

    def quantity(self, meta: Any, children: list[Any]) -> ast.Quantity:
        """`NUMBER UNIT`; the unit is checked where the parameter is known."""
        span, text = self._literal(meta, children)
        match = _QUANTITY.fullmatch(text)
        assert match, text  # the terminal is a number and a unit
        return ast.Quantity(span, self._number(span, match[1]), match[2])

    def string(self, meta: Any, children: list[Any]) -> ast.String:
        """A string in double quotes; unknown escapes are one E0007, at the first of them."""
        span, text = self._literal(meta, children)
        unknown: list[re.Match[str]] = []

        def unescape(match: re.Match[str]) -> str:
            code = match[1]
            if code[0] == "u" and len(code) == 5 and _usable(int(code[1:], 16)):
                return chr(int(code[1:], 16))
            if code not in _ESCAPES:
                unknown.append(match)
            return _ESCAPES.get(code, code)

        value = _ESCAPE.sub(unescape, text[1:-1])
        if unknown:
            start = meta.start_pos + 1 + unknown[0].start()
            at = Label(self.source.span(start, start + len(unknown[0][0])))
            self.problems.append(
                Diagnostic("E0007", f"unknown escape `{unknown[0][0]}`", at, help=_escapes(text[1:-1]))
            )
        return ast.String(span, value)

    def _number(self, span: Any, text: str) -> int | float:
        digits = text.replace("_", "")
        if len(digits) > _MAX_DIGITS:
            self._bad_number(span, f"a number of {len(digits)} digits")
            return 0
        if digits.lstrip("+-").isdigit():
            return int(digits)
        value = float(digits)
        if not math.isfinite(value):
            self._bad_number(span, f"`{text}` is too large a number")
            return 0
        return value

    def _bad_number(self, span: Any, message: str) -> None:
        self.problems.append(Diagnostic("E0008", message, Label(span)))


def _escapes(text: str) -> str:
    if _DRIVE.match(text) or (text.count("\\") > 1 and "/" not in text):
        forward = text.replace("\\\\", "/").replace("\\", "/")
        return f'a path is written with `/`, on Windows too: `"{forward}"`; a backslash itself is `\\\\`'
    return 'the escapes are \\" \\\\ \\n \\t \\r and \\u with four hex digits (not 0000)'


def _usable(code: int) -> bool:
    """Neither NUL, which no path can hold, nor half a surrogate pair, which no file can."""
    return code != 0 and not 0xD800 <= code <= 0xDFFF


def _nodes(children: list[Any]) -> list[Any]:
    """The children that are nodes: neither keywords and signs nor placeholders of what was left out."""
    return [child for child in children if child is not None and not isinstance(child, str)]


def from_tree(tree: Any, builder: TreeBuilder) -> Any:
    """What the builder makes of a tree of Lark's, which is as deep as brackets nest."""
    children = [from_tree(child, builder) if hasattr(child, "children") else child for child in tree.children]
    return getattr(builder, tree.data)(tree.meta, children)
