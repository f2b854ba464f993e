"""The plan as written: one dataclass per construct, each with the `Span` it came from.

Spans do not take part in comparison, so that a printed plan parses to an equal tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..compiler.diagnostics.diagnostic import Span
from ..compiler.plan.parameters import Pattern


@dataclass(frozen=True)
class Node:
    """A construct of a plan file, with the text range it was read from."""

    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Name(Node):
    """An identifier that names something: a model, a pass, a key."""

    text: str


@dataclass(frozen=True)
class Number(Node):
    """`32` or `0.5`: a number without a unit."""

    value: int | float


@dataclass(frozen=True)
class Quantity(Node):
    """`4.5 bits`, `3.4 GiB`: a number with its unit, both as written."""

    value: int | float
    unit: str


@dataclass(frozen=True)
class Percent(Node):
    """`80%`."""

    value: int | float  # as written: 80% is 80


@dataclass(frozen=True)
class PatternLiteral(Node):
    """`2:4`: keep n of every m values."""

    value: Pattern


@dataclass(frozen=True)
class String(Node):
    """`"models/a"`: the text between the quotes, escapes resolved."""

    value: str


@dataclass(frozen=True)
class Boolean(Node):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True)
class Word(Node):
    """A name of a `let`, or a word of a parameter's own (`int4`, `auto`)."""

    text: str


@dataclass(frozen=True)
class Call(Node):
    """`hf("folder")`: a source and its argument."""

    name: Name
    argument: Value


@dataclass(frozen=True)
class Product(Node):
    """`1.03 * baseline`: a bound relative to a measured value."""

    factor: int | float
    name: Name


@dataclass(frozen=True)
class ListLiteral(Node):
    """`[1, 64]`."""

    items: tuple[Value, ...]


@dataclass(frozen=True)
class Entry(Node):
    """`image: [1, 3, 224, 224]`: a name of the model's, and what is said of it."""

    key: Name | String
    value: Value

    @property
    def name(self) -> str:
        """The key's text, with quotes or without."""
        return self.key.text if isinstance(self.key, Name) else self.key.value


@dataclass(frozen=True)
class RecordLiteral(Node):
    """`{ image: [1, 3, 224, 224], mask: [1, 224] }`."""

    entries: tuple[Entry, ...]


Value = Number | Quantity | Percent | PatternLiteral | String | Boolean | Word | Call | ListLiteral | RecordLiteral


@dataclass(frozen=True)
class Setting(Node):
    """`key = value`, in braces of a block or in parentheses of a step."""

    key: Name
    value: Value


@dataclass(frozen=True)
class PlanName(Node):
    """`plan chat`."""

    name: Name


@dataclass(frozen=True)
class Tune(Node):
    """`tune(32, 64, 128)`: values of which `edgec tune` chooses one."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Let(Node):
    """`let bs = 32`, `let bs = tune(32, 64)`."""

    name: Name
    value: Value | Tune


@dataclass(frozen=True)
class Include(Node):
    """`include "base.edge"`: statements of another plan file."""

    path: String


@dataclass(frozen=True)
class Use(Node):
    """`use "my_pass.py"`: passes defined in a Python file."""

    path: String


@dataclass(frozen=True)
class Device(Node):
    """`device snapdragon_8_gen_3`."""

    value: Value


@dataclass(frozen=True)
class Model(Node):
    """`model chat { source = hf("…") context = 2048 }`."""

    name: Name
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Calibration(Node):
    """`calibration { text = "calib/*.txt" }`."""

    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Evaluation(Node):
    """`evaluation { text = "eval.txt" }`."""

    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Step(Node):
    """One line of a pipeline: `quantize(weights = int4) on "layers.*" except "lm_head"`."""

    name: Name
    settings: tuple[Setting, ...]
    on: Value | None
    except_: Value | None


@dataclass(frozen=True)
class Pipeline(Node):
    """`pipeline npu { … }`: steps in the order they run."""

    name: Name
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Deploy(Node):
    """`deploy chat on npu through npu as qnn { kv = uint8 }`."""

    model: Name
    place: Name
    pipeline: Name | None
    target: Name
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Speculate(Node):
    """`speculate draft -> chat { k = 3 }`."""

    draft: Name
    target: Name
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Condition(Node):
    """`chat.perplexity <= 1.03 * baseline`: one line of a `require` block."""

    subject: str
    op: str
    bound: Value | Product


@dataclass(frozen=True)
class Goal(Node):
    """`goal = decode.rate`: what is to be best among plans that meet every condition."""

    subject: str


@dataclass(frozen=True)
class Require(Node):
    """`require { … }`: conditions the finished bundle has to meet; a goal may stand among them."""

    conditions: tuple[Condition, ...]
    goals: tuple[Goal, ...] = ()


Statement = (
    PlanName
    | Let
    | Include
    | Use
    | Device
    | Model
    | Calibration
    | Evaluation
    | Pipeline
    | Deploy
    | Speculate
    | Require
    | Goal
)


@dataclass(frozen=True)
class File:
    """All statements of one plan file, in the order of the text."""

    statements: tuple[Statement, ...]
