"""print(parse(x)) reads back to the same tree, for every tree."""

from __future__ import annotations

from edgec.compiler.diagnostics.diagnostic import Span
from edgec.compiler.plan.parameters import Pattern
from edgec.dsl import ast
from edgec.dsl.parser import parse_text, parse_value
from edgec.dsl.printer import show
from edgec.dsl.scanner import KEYWORDS
from hypothesis import given, settings
from hypothesis import strategies as st

from .test_parser import WHOLE

S = Span("", 1, 1, 1, 1)
_NO_NAME = {"true", "false", "on", "except", "through", "as"}

words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True).filter(lambda word: word not in _NO_NAME)
names = st.one_of(words, st.sampled_from(KEYWORDS)).map(lambda text: ast.Name(S, text))
integers = st.integers(-(10**30), 10**30)
floats = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.one_of(integers, floats)
units = st.sampled_from(["B", "KB", "MB", "GB", "KiB", "MiB", "GiB", "bits", "bit", "tok/s", "s", "min", "h"])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
scalars = st.one_of(
    st.builds(ast.Number, st.just(S), numbers),
    st.builds(ast.Quantity, st.just(S), numbers, units),
    st.builds(ast.Percent, st.just(S), numbers),
    st.builds(ast.PatternLiteral, st.just(S), st.builds(Pattern, st.integers(0, 99), st.integers(0, 99))),
    st.builds(ast.String, st.just(S), texts),
    st.builds(ast.Boolean, st.just(S), st.booleans()),
    st.builds(ast.Word, st.just(S), words),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(ast.ListLiteral, st.just(S), st.lists(inner, max_size=3).map(tuple)),
        st.builds(ast.Call, st.just(S), names, inner),
    ),
    max_leaves=6,
)
strings = st.builds(ast.String, st.just(S), texts)


def many(strategy, most=3):
    return st.lists(strategy, max_size=most).map(tuple)


entry = st.builds(ast.Entry, st.just(S), st.one_of(names, strings), values)
record = st.builds(ast.RecordLiteral, st.just(S), many(entry))
setting = many(st.builds(ast.Setting, st.just(S), names, st.one_of(values, record)))
steps = many(st.builds(ast.Step, st.just(S), names, setting, st.none() | values, st.none() | values))
subjects = st.lists(words, min_size=1, max_size=3).map(".".join)
bounds = st.one_of(values, st.builds(ast.Product, st.just(S), numbers, names))
comparisons = st.sampled_from(["<=", ">=", "<", ">", "==", "!="])
conditions = many(st.builds(ast.Condition, st.just(S), subjects, comparisons, bounds))
tunes = st.builds(ast.Tune, st.just(S), st.lists(values, min_size=2, max_size=4).map(tuple))
statements = st.one_of(
    st.builds(ast.PlanName, st.just(S), names),
    st.builds(ast.Let, st.just(S), names, st.one_of(values, tunes)),
    st.builds(ast.Goal, st.just(S), subjects),
    st.builds(ast.Include, st.just(S), strings),
    st.builds(ast.Use, st.just(S), strings),
    st.builds(ast.Device, st.just(S), values),
    st.builds(ast.Model, st.just(S), names, setting),
    st.builds(ast.Calibration, st.just(S), setting),
    st.builds(ast.Evaluation, st.just(S), setting),
    st.builds(ast.Pipeline, st.just(S), names, steps),
    st.builds(ast.Deploy, st.just(S), names, names, st.none() | names, names, setting),
    st.builds(ast.Speculate, st.just(S), names, names, setting),
    st.builds(ast.Require, st.just(S), conditions, many(st.builds(ast.Goal, st.just(S), subjects), 1)),
)


def test_the_whole_language_round_trips():
    tree = parse_text(WHOLE)
    assert parse_text(show(tree)) == tree


@settings(max_examples=300, deadline=None)
@given(many(statements, 4))
def test_any_tree_round_trips(found):
    tree = ast.File(found)
    text = show(tree)
    assert parse_text(text) == tree
    assert show(parse_text(text)) == text


@settings(max_examples=300, deadline=None)
@given(values)
def test_any_value_round_trips(value):
    assert parse_value(show(value), "-D") == value
