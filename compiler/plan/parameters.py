"""Parameters of passes and targets: the one place that tells their types, ranges and meaning.

A pass or a target's options is a frozen dataclass whose fields are made by `param`. The plan's checker, the
printer of `edgec passes NAME` and the docs read `parameters(cls)`; nothing else describes a parameter.

    annotation          a plan writes            the field holds
    int, float          3, 0.5                   int, float
    float, unit="%"     80%                      0.8
    float, unit="bits"  4.5 bits                 4.5
    int, unit="B"       512 MiB                  536870912
    float, unit="tok/s" 15 tok/s                 15.0
    float, unit="s"     20 min                   1200.0
    str with choices    gptq                     "gptq"
    str                 "text"                   "text"
    bool                true                     True
    Pattern             2:4                      Pattern(2, 4)
    WarningCode         W0601                    WarningCode("W0601")
    InputShapes         { x: [1, 3] }            InputShapes({"x": (1, 3)})
    tuple[T, ...]       [1, 4] (or one value)    (1, 4)

Unions of these are allowed (`int | str` with `choices=("auto",)`); choices of a type bind values of that type
only, so `int | str` with `choices=("auto",)` and `minimum=1` takes `auto` and every positive integer.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from ..diagnostics.wording import join_or

_METADATA = "edgec.param"


@dataclass(frozen=True, order=True)
class Pattern:
    """`n` of every `m` consecutive values (2:4)."""

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


class InputShapes(dict[str, tuple[int, ...]]):
    """The shape of each input that a plan names."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]  # never changed once it is read
        return hash(tuple(self.items()))

    def __str__(self) -> str:
        return f"{{ {', '.join(f'{name}: {list(shape)}' for name, shape in self.items())} }}"


class WarningCode(str):
    """A warning's code, W0601."""

    __slots__ = ()


@dataclass(frozen=True)
class Parameter:
    """One field of a pass or of a target's options, as the plan sees it."""

    name: str
    types: tuple[type, ...]  # of one value, or of one element when `many`
    many: bool
    doc: str
    default: object  # MISSING: the plan has to give it
    choices: tuple[int | float | str, ...]
    minimum: float | None
    maximum: float | None
    unit: str | None
    also_called: tuple[str, ...] = ()  # what other tools call it: the checker names ours
    meant: Mapping[str, str] = dataclasses.field(default_factory=dict)  # values others write -> what to write here
    goes_with: tuple[str, tuple[str, ...]] | None = None  # (parameter, its values) without which it has no effect

    @property
    def required(self) -> bool:
        """Whether a plan has to give it."""
        return self.default is MISSING

    def choices_of(self, kind: type) -> tuple[int | float | str, ...]:
        """The choices of one Python type."""
        return tuple(choice for choice in self.choices if isinstance(choice, kind))

    def describe(self) -> str:
        """What a plan may write, in words (`int8 or int4`, `list of positive integers`)."""
        parts = [str(choice) for choice in self.choices]
        parts += [self._describe_type(kind) for kind in self.types if not self.choices_of(kind)]
        text = join_or(parts)
        return f"{text}, or a list of them" if self.many else text

    def _describe_type(self, kind: type) -> str:
        if kind is bool:
            return "true or false"
        if kind is str:
            return "a string"
        if kind is WarningCode:
            return "a warning's code like W0601"
        if kind is Pattern:
            return "a pattern like 2:4"
        if kind is InputShapes:
            return "the shapes of inputs like `{ image: [1, 3, 224, 224] }`"
        noun = {
            "%": "a percentage like 80%",
            "bits": "a width like `4.5 bits`",
            "B": "a size like `512 MiB`",
            "tok/s": "a rate like `15 tok/s`",
            "s": "a duration like `20 min`",
        }.get(self.unit or "", "an integer" if kind is int else "a number")
        bounds = self._describe_range()
        return f"{noun}, {bounds}" if bounds and self.unit else f"{noun} {bounds}".rstrip()

    def _describe_range(self) -> str:
        low, high = (self._show(bound) for bound in (self.minimum, self.maximum))
        if low and high:
            return f"from {low} to {high}"
        of = "" if self.unit else "of "
        return f"{of}at least {low}" if low else f"{of}at most {high}" if high else ""

    def written(self, value: Any) -> str:
        """A value as a plan writes it: `[3, 4, 8]`, `true`, `4.5 bits`."""
        if isinstance(value, tuple):
            return f"[{', '.join(self.written(item) for item in value)}]"
        if isinstance(value, bool):
            return str(value).lower()
        return self._show(value) if isinstance(value, (int, float)) else str(value)

    def _show(self, bound: float | None) -> str:
        if bound is None:
            return ""
        if self.unit == "%":
            return f"{bound * 100:g}%"
        return f"{bound:g} {self.unit}" if self.unit else f"{bound:g}"


def param(
    default: Any = MISSING,
    *,
    doc: str,
    choices: Iterable[int | float | str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str | None = None,
    also_called: Iterable[str] = (),
    meant: Mapping[str, str] | None = None,
    goes_with: tuple[str, tuple[str, ...]] | None = None,
) -> Any:
    """A dataclass field that a plan can set; without a default the plan has to set it.

    `also_called` are names other tools have for it and `meant` values they write, with what a plan writes instead: help
    texts use both. `goes_with` is another parameter and the values of it this one has an effect with; written beside
    another value, it is an error.
    """
    facts = {
        "doc": doc,
        "choices": tuple(choices),
        "minimum": minimum,
        "maximum": maximum,
        "unit": unit,
        "also_called": tuple(also_called),
        "meant": dict(meant or {}),
        "goes_with": goes_with,
    }
    return dataclasses.field(default=default, metadata={_METADATA: facts}, kw_only=True)


@functools.cache
def parameters(cls: type) -> tuple[Parameter, ...]:
    """The parameters of a pass or options class, in the order of its fields."""
    fields = [field for field in dataclasses.fields(cls) if _METADATA in field.metadata]
    return tuple(_parameter(field, _hint(cls, field)) for field in fields)


def _hint(cls: type, field: dataclasses.Field[Any]) -> Any:
    """The annotation, evaluated alone: others of the class may name what only type checkers import."""
    owner = next(base for base in cls.__mro__ if field.name in vars(base).get("__annotations__", {}))
    lone = types.SimpleNamespace(__annotations__={field.name: field.type})
    return typing.get_type_hints(lone, vars(sys.modules[owner.__module__]))[field.name]


def _parameter(field: dataclasses.Field[Any], hint: Any) -> Parameter:
    kinds: list[type] = []
    many = False
    for option in typing.get_args(hint) if _is_union(hint) else (hint,):
        if typing.get_origin(option) is tuple:
            many = True
            element = typing.get_args(option)[0]
            kinds += typing.get_args(element) if _is_union(element) else (element,)
        else:
            kinds.append(option)
    kinds = [kind for kind in dict.fromkeys(kinds) if kind is not type(None)]
    return Parameter(name=field.name, types=tuple(kinds), many=many, default=field.default, **field.metadata[_METADATA])


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)
