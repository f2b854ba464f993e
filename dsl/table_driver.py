"""Lark's LALR tables driven without Lark's trees: a statement in, its nodes out, in a fifth of the time.

Lark's own parser makes a token and a tree for everything and walks the tree once more. Here a reduction calls the
builder's method at once. It reads the same tables, lexers and rules, so that the language is described in one place.
What it cannot read it leaves to Lark, which says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lark import Lark

    from .builder import TreeBuilder

_END = "$END"
_Match = Callable[[str, int, int], "re.Match[str] | None"]


class Place(NamedTuple):
    """Where in the text the symbols of a rule stand, as Lark's `meta` says it."""

    start_pos: int
    end_pos: int


class _Rule(NamedTuple):
    """A production: how many symbols it replaces by which one, and the builder's method for it."""

    size: int
    origin: str
    method: Callable[..., Any] | None  # None: its children become those of the rule it stands in
    spliced: tuple[bool, ...]  # of each symbol: whether its value is a list of children
    absent: tuple[int, ...]  # how many parts were left out in front of each symbol, and at the end
    bare: bool  # nothing was left out
    plain: bool  # one list of children that is passed on as it is


class _State:
    """One state of the parser. What its lexer matches is prepared when a token is read there."""

    __slots__ = ("actions", "keywords", "match", "number")

    def __init__(self, number: int, actions: dict[str, tuple[bool, Any]]) -> None:
        self.number = number
        self.actions = actions  # symbol -> (shift?, next state's number or rule)
        self.match: _Match | None = None
        self.keywords: dict[str, dict[str, str]] = {}  # terminal -> text -> the keyword's terminal


class TableDriver:
    """Drives the tables of one `Lark`; `parse` gives what the builder makes of a range of text."""

    def __init__(self, lark: Lark, builder: type[TreeBuilder]) -> None:
        from lark.parsers.lalr_analysis import Shift

        self._builder = builder
        frontend: Any = lark.parser
        table = frontend.parser._parse_table
        self._start, self._end = dict(table.start_states), dict(table.end_states)
        self._ignored = frozenset(frontend.lexer_conf.ignore)
        self._table, self._lexers, self._shift = table.states, frontend.lexer.lexers, Shift
        self._states: dict[int, _State] = {}
        self._rules: dict[Any, _Rule] = {}

    def parse(self, text: str, start: int, stop: int, symbol: str, builder: TreeBuilder) -> Any:
        """The builder's value of `text[start:stop]` as a `symbol` of the grammar; None where it is no such thing."""
        states, values, places = [self._state(self._start[symbol])], [], []
        position, ignored, end, made = start, self._ignored, self._end[symbol], self._states
        while True:
            state = states[-1]
            match = state.match or self._lexer(state)
            kind, began = _END, stop
            while position < stop:
                token = match(text, position, stop)
                if token is None:
                    return None
                began, position = position, token.end()
                if token.lastgroup not in ignored:
                    kind = token.lastgroup or ""
                    break
            value = text[began:position]
            if kind in state.keywords:
                kind = state.keywords[kind].get(value, kind)
            while True:
                action = state.actions.get(kind)
                if action is None:
                    return None
                shift, target = action
                if shift:
                    states.append(made.get(target) or self._state(target))
                    values.append(value)
                    places.append((began, position))
                    break
                if target.plain:
                    states.pop()
                else:
                    self._reduce(target, states, values, places, builder)
                number = states[-1].actions[target.origin][1]
                state = made.get(number) or self._state(number)
                states.append(state)
                if kind is _END and number == end:
                    return values[-1]

    def _reduce(
        self, rule: _Rule, states: list[_State], values: list[Any], places: list[Any], builder: TreeBuilder
    ) -> None:
        """Replace the topmost values by the one they make."""
        size, method = rule.size, rule.method
        if size == 1 and not rule.spliced[0] and places[-1] is not None:
            children = [values[-1]] if rule.bare else self._children(rule, values[-1:])
            values[-1] = children if method is None else method(builder, Place(*places[-1]), children)
            states.pop()
            return
        place = None
        if size:
            where = [one for one in places[-size:] if one is not None]
            place = Place(where[0][0], where[-1][1]) if where else None
            children = self._children(rule, values[-size:])
            del values[-size:], places[-size:], states[-size:]
        else:
            children = [None] * rule.absent[0]
        values.append(children if method is None else method(builder, place, children))
        places.append(place)

    def _children(self, rule: _Rule, found: list[Any]) -> list[Any]:
        spliced, absent = rule.spliced, rule.absent
        made: list[Any] = [None] * absent[0]
        for at, value in enumerate(found):
            if not spliced[at]:
                made.append(value)
            elif made:
                made += value
            else:
                made = value  # a list that grows by one item is continued, not copied
            if absent[at + 1]:
                made += [None] * absent[at + 1]
        return made

    def _state(self, number: int) -> _State:
        if number not in self._states:
            actions = {
                name: (action is self._shift, target if action is self._shift else self._rule(target))
                for name, (action, target) in self._table[number].items()
            }
            self._states[number] = _State(number, actions)
        return self._states[number]

    def _lexer(self, state: _State) -> _Match:
        lexer = self._lexers[state.number]
        (pattern,) = lexer.scanner._mres
        for kind, other in lexer.callback.items():  # words that are keywords where one may stand
            state.keywords[kind] = {one.pattern.value: one.name for one in other.scanner.terminals}
        match: _Match = pattern.match
        state.match = match
        return match

    def _rule(self, rule: Any) -> _Rule:
        if rule not in self._rules:
            spliced = tuple(not one.is_term and one.name.startswith("_") for one in rule.expansion)
            absent = [0]
            for empty in rule.options.empty_indices or [False] * len(spliced):
                if empty:
                    absent[-1] += 1
                else:
                    absent.append(0)
            name, bare = rule.origin.name, not any(absent)
            method = None if name.startswith("_") else getattr(self._builder, rule.alias or name)
            plain = method is None and spliced == (True,) and bare
            self._rules[rule] = _Rule(len(spliced), name, method, spliced, tuple(absent), bare, plain)
        return self._rules[rule]
