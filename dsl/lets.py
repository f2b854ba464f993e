"""The plan's `let`s and their overrides: words in values become what they stand for.

A let may use another, in any order; a circle is an error. An override from the command line has to be of the
kind the let's own value has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ..compiler.diagnostics.diagnostic import Label, PlanError
from ..compiler.diagnostics.nearest import nearest_help
from . import ast
from .diagnostic_collector import DiagnosticCollector
from .parser import parse_value
from .printer import show
from .scanner import MAX_DEPTH

MAX_VALUES = 1 << 18  # a plan of the largest size holds half as many

_KINDS = {
    ast.Quantity: "a number with a unit",
    ast.Percent: "a percentage",
    ast.PatternLiteral: "a pattern",
    ast.String: "a string",
    ast.Boolean: "true or false",
    ast.Word: "a word",
    ast.Call: "a source",
    ast.ListLiteral: "a list",
    ast.RecordLiteral: "names with values",
}

_CHOICES = {"an integer", "a number", "a word"}  # kinds that stand side by side in a `tune`: 32 and channel


@dataclass
class Lets:
    """The plan's lets by name, the values that `-D` gives them, and what is reported about either."""

    report: DiagnosticCollector
    declared: dict[str, ast.Let] = field(default_factory=dict)
    overrides: dict[str, ast.Value] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)  # lets that could not be read: their uses are no mistakes
    tuned: dict[str, ast.Tune] = field(default_factory=dict)  # those that a search chooses; as declared, the first
    _known: dict[str, ast.Value | None] = field(default_factory=dict)
    _extents: dict[str, tuple[int, int]] = field(default_factory=dict)  # of each known one
    _total: int = 0  # values that the known ones stand for

    def __post_init__(self) -> None:
        self.tuned = {name: let.value for name, let in self.declared.items() if isinstance(let.value, ast.Tune)}
        firsts = {name: replace(self.declared[name], value=tune.values[0]) for name, tune in self.tuned.items()}
        self.declared = {**self.declared, **firsts}

    def origin(self, value: ast.Value) -> Label | None:
        """Where the value of a let is written: in the plan, or behind `-D`; None for what is no let."""
        if not isinstance(value, ast.Word) or value.text not in self.declared:
            return None
        given = self.overrides.get(value.text)
        if given is not None:
            return Label(given.span, f"`{value.text}` is `{show(given)}` by `-D`")
        return Label(self.declared[value.text].value.span, f"`{value.text}` is this")

    def override(self, defines: Iterable[str], places: dict[str, str]) -> None:
        """Take `name=value` texts; `places` receives them as sources for code frames."""
        for text in defines:
            name, equals, value = text.partition("=")
            name, file = name.strip(), f"-D {text}"
            if not equals or not value.strip():
                help = f"write `-D {name or 'NAME'}=VALUE`"
                self.report.error("E0113", f"`-D {text}` has no value", None, help=help)
                continue
            if name in self.lost:
                continue
            if name not in self.declared:
                help = nearest_help(name, self.declared, "let") or "only what the plan declares by `let` can be set"
                self.report.error("E0113", f"no `let` of the plan is named `{name}`", None, help=help)
                continue
            places[file] = value
            self._override(name, value.strip(), file)

    def _override(self, name: str, text: str, file: str) -> None:
        own = self.resolve(self._own(name))
        if own is None:
            return
        try:
            value = parse_value(text, file)
        except PlanError as error:
            if not isinstance(own, ast.String):
                self.report.take(error, self.declared[name].span)
                return
            value = replace(own, value=text)
        if isinstance(own, ast.String) and not isinstance(value, ast.String):
            value = replace(own, value=text)  # `-D dir=models/a` needs no quotes
        chosen_from = self.tuned[name].values if name in self.tuned else ()
        kinds = [own, *(one for one in map(self.resolve, chosen_from) if one is not None)]
        if not any(same_kind(value, kind) for kind in kinds):
            message = f"`-D {name}={text}` gives {kind_of(value)}, the plan has {kind_of(own)}"
            span = self.declared[name].value.span
            self.report.error("E0207", message, span, "this is replaced", help=f"give {kind_of(own)}")
            return
        self._known.clear()
        self._extents.clear()
        self._total = 0
        self.overrides[name] = replace(value, span=self.declared[name].value.span)

    def resolve(self, value: ast.Value) -> ast.Value | None:
        """`value` with every let in it replaced (spans stay those of the use); None after an error."""
        if isinstance(value, ast.ListLiteral):
            items = [self.resolve(item) for item in value.items]
            if any(item is None for item in items):
                return None
            return replace(value, items=tuple(items))
        if isinstance(value, ast.RecordLiteral):
            return _with_values(value, [self.resolve(entry.value) for entry in value.entries])
        if isinstance(value, ast.Call):
            argument = self.resolve(value.argument)
            return replace(value, argument=argument) if argument is not None else None
        if isinstance(value, ast.Word):
            if value.text in self.lost:
                return None
            if value.text in self.declared:
                found = self._value_of(value.text)
                return replace(found, span=value.span) if found is not None else None
        return value

    def origin_value(self, name: str) -> ast.Value | None:
        """What the plan itself gives a let, `-D` left aside; None for what is no let, or has none after an error."""
        return self.resolve(self._own(name)) if name in self.declared else None

    def _own(self, name: str) -> ast.Value:
        """What the plan has for a let; of a `tune` the first value."""
        value = self.declared[name].value
        return value.values[0] if isinstance(value, ast.Tune) else value

    def _written(self, name: str) -> ast.Value:
        return self.overrides.get(name) or self._own(name)

    def _value_of(self, name: str) -> ast.Value | None:
        if name not in self._known:
            self._settle(name)
        return self._known[name]

    def _settle(self, name: str) -> None:
        """Find what `name` and all that it is made of stand for, the innermost first; without recursion."""
        path = {name: self._needs(name)}
        while path:
            current, needs = next(reversed(path.items()))
            other = next((need for need in needs if need not in self._known), None)
            if other is None:
                self._known.setdefault(current, self._bounded(current))
                del path[current]
            elif other in path:
                self._circle([*list(path)[list(path).index(other) :]])
                self._known[other] = None
            else:
                path[other] = self._needs(other)

    def _needs(self, name: str) -> Iterator[str]:
        """The declared lets that the value of `name` is written with."""
        stack = [self._written(name)]
        while stack:
            value = stack.pop()
            if isinstance(value, ast.Word) and value.text in self.declared and value.text not in self.lost:
                yield value.text
            elif isinstance(value, ast.ListLiteral):
                stack += reversed(value.items)
            elif isinstance(value, ast.Call):
                stack.append(value.argument)

    def _circle(self, names: list[str]) -> None:
        first, *others = names
        also = [Label(self.declared[other].span, "and this one") for other in others]
        circle = " -> ".join((*names, first))
        message = f"these lets refer to each other in a circle: {circle}"
        help = f"give one of them a value: `let {first} = 32`"
        self.report.error("E0111", message, self.declared[first].name.span, also=also, help=help)

    def _bounded(self, name: str) -> ast.Value | None:
        """What the let stands for, once all lets in it are known; None if that is more than a plan can mean."""
        written = self._written(name)
        depth, count = self._extent(written)
        self._extents[name] = depth, count
        self._total += count
        if depth <= MAX_DEPTH and self._total <= MAX_VALUES:
            return self._inner(written)
        self._extents[name] = 0, 1
        if self._total - count <= MAX_VALUES:  # told once: from here on no let stands for anything
            what = (
                f"lists nested {depth} deep" if depth > MAX_DEPTH else f"{count} values, with the others {self._total}"
            )
            help = f"all lets together stand for at most {MAX_VALUES} values, in lists at most {MAX_DEPTH} deep"
            message = f"`{name}` stands for {what}, more than a plan can mean"
            self.report.error("E0012", message, self.declared[name].name.span, help=help)
        return None

    def _extent(self, value: ast.Value) -> tuple[int, int]:
        """How deep a value's lists are, and how many values it has, once its lets are replaced."""
        if isinstance(value, ast.ListLiteral):
            parts = [self._extent(item) for item in value.items]
            return 1 + max((depth for depth, _ in parts), default=0), 1 + sum(count for _, count in parts)
        if isinstance(value, ast.Call):
            depth, count = self._extent(value.argument)
            return 1 + depth, 1 + count
        return self._extents.get(value.text, (0, 1)) if isinstance(value, ast.Word) else (0, 1)

    def _inner(self, value: ast.Value) -> ast.Value | None:
        if isinstance(value, ast.Word):
            if value.text in self.lost:
                return None
            return self._known[value.text] if value.text in self.declared else value
        if isinstance(value, ast.ListLiteral):
            items = [self._inner(item) for item in value.items]
            return None if any(item is None for item in items) else replace(value, items=tuple(items))
        if isinstance(value, ast.Call):
            argument = self._inner(value.argument)
            return None if argument is None else replace(value, argument=argument)
        return value

    def check(self) -> None:
        """Resolve every let, also those nobody uses: a circle is a mistake wherever it is."""
        for name in self.declared:
            own = self._value_of(name)
            if name in self.tuned:
                self._check_tuned(name, self.tuned[name])
            elif isinstance(own, ast.Call) and own.name.text == "tune":
                message = f"`tune` of `{name}` has one value: there is nothing to choose"
                help = f"give it several, `tune({show(own.argument)}, …)`, or the value alone"
                self.report.error("E0228", message, self.declared[name].value.span, help=help)

    def _check_tuned(self, name: str, tune: ast.Tune) -> None:
        """E0228 where values differ in kind or one is there twice; W0311 where none was chosen."""
        before = self.report.errors
        first = self.resolve(tune.values[0])
        seen: dict[str, ast.Value] = {}
        for written in tune.values:
            value = self.resolve(written)
            if first is None or value is None:
                return
            if not (same_kind(value, first) or {kind_of(value), kind_of(first)} <= _CHOICES):
                message = f"`tune` of `{name}` mixes {kind_of(first)} and {kind_of(value)}"
                also = [Label(tune.values[0].span, f"{kind_of(first)}")]
                self.report.error("E0228", message, written.span, also=also, help=f"give {kind_of(first)} each time")
            if show(value) in seen:
                also = [Label(seen[show(value)].span, "first here")]
                message = f"`tune` of `{name}` has `{show(value)}` twice"
                self.report.error("E0228", message, written.span, also=also, help="leave one of them out")
            seen.setdefault(show(value), written)
        if name not in self.overrides and self.report.errors == before:
            message = f"`{name}` is to be tuned and no value is chosen: the first is taken, `{show(tune.values[0])}`"
            help = f"`edgec tune PLAN` chooses one, and so does `-D {name}={show(tune.values[0])}`"
            self.report.warning("W0311", message, tune.span, help=help)

    def values(self) -> dict[str, object]:
        """What each let stands for, in plain Python, for the manifest."""
        found = {name: self._value_of(name) for name in self.declared}
        return {name: plain(value) for name, value in found.items() if value is not None}


def plain(value: ast.Value) -> object:
    """A literal as a plain value (text where Python has no such type)."""
    if isinstance(value, ast.Number | ast.String | ast.Boolean):
        return value.value
    if isinstance(value, ast.Word):
        return value.text
    if isinstance(value, ast.ListLiteral):
        return [plain(item) for item in value.items]
    return show(value)


def kind_of(value: ast.Value) -> str:
    """The kind of a literal in words, for messages: `an integer`, `a string`."""
    if isinstance(value, ast.Number):
        return "an integer" if isinstance(value.value, int) else "a number"
    return _KINDS[type(value)]


def same_kind(value: ast.Value, own: ast.Value) -> bool:
    """Whether `value` may stand for `own`: an integer may for a number."""
    return kind_of(value) == kind_of(own) or (kind_of(own) == "a number" and kind_of(value) == "an integer")


def _with_values(value: ast.RecordLiteral, made: list[ast.Value | None]) -> ast.RecordLiteral | None:
    """The record with other values; None if one of them is none."""
    entries = [replace(entry, value=one) for entry, one in zip(value.entries, made, strict=True) if one is not None]
    return replace(value, entries=tuple(entries)) if len(entries) == len(made) else None
