"""The plan as written: one dataclass per construct, each with the `Span` it came from.

Spans do not take part in comparison, so that a printed plan parses to an equal tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..compiler.diagnostics.diagnostic import Span
from ..compiler.plan.parameters import Pattern


@dataclass(frozen=True)
class Node:
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Name(Node):
    text: str


@dataclass(frozen=True)
class Number(Node):
    value: int | float


@dataclass(frozen=True)
class Quantity(Node):
    value: int | float
    unit: str


@dataclass(frozen=True)
class Percent(Node):
    value: int | float  # as written: 80% is 80


@dataclass(frozen=True)
class PatternLiteral(Node):
    value: Pattern


@dataclass(frozen=True)
class String(Node):
    value: str


@dataclass(frozen=True)
class Boolean(Node):
    value: bool


@dataclass(frozen=True)
class Word(Node):
    """A name of a `let`, or a word of a parameter's own (`int4`, `auto`)."""

    text: str


@dataclass(frozen=True)
class Call(Node):
    name: Name
    argument: Value


@dataclass(frozen=True)
class Product(Node):
    factor: int | float
    name: Name


@dataclass(frozen=True)
class ListLiteral(Node):
    items: tuple[Value, ...]


Value = Number | Quantity | Percent | PatternLiteral | String | Boolean | Word | Call | ListLiteral


@dataclass(frozen=True)
class Setting(Node):
    key: Name
    value: Value


@dataclass(frozen=True)
class PlanName(Node):
    name: Name


@dataclass(frozen=True)
class Let(Node):
    name: Name
    value: Value


@dataclass(frozen=True)
class Include(Node):
    path: String


@dataclass(frozen=True)
class Use(Node):
    path: String


@dataclass(frozen=True)
class Device(Node):
    value: Value


@dataclass(frozen=True)
class Model(Node):
    name: Name
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Calibration(Node):
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Evaluation(Node):
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Step(Node):
    name: Name
    settings: tuple[Setting, ...]
    on: Value | None
    except_: Value | None


@dataclass(frozen=True)
class Pipeline(Node):
    name: Name
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Deploy(Node):
    model: Name
    place: Name
    pipeline: Name | None
    target: Name
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Speculate(Node):
    draft: Name
    target: Name
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Condition(Node):
    subject: str
    op: str
    bound: Value | Product


@dataclass(frozen=True)
class Require(Node):
    conditions: tuple[Condition, ...]


Statement = (
    PlanName | Let | Include | Use | Device | Model | Calibration | Evaluation | Pipeline | Deploy | Speculate | Require
)


@dataclass(frozen=True)
class File:
    statements: tuple[Statement, ...]
