"""Settings against parameters: each `key = value` is checked and converted by the `Parameter` of its key.

The parameters are the fields of a dataclass (a pass, a target's options, a block below), so types, ranges and
choices are defined in one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ..compiler.diagnostics.diagnostic import Label, PlanError, Span
from ..compiler.diagnostics.nearest import nearest, nearest_help, same_word
from ..compiler.diagnostics.wording import join_or
from ..compiler.pipeline.pass_interface import Pass
from ..compiler.plan.parameters import InputShapes, Parameter, Pattern, WarningCode, param, parameters
from ..compiler.registry import cache_types, find_source
from ..compiler.sources.source import Source
from . import ast
from .diagnostic_collector import MAX_SHOWN, DiagnosticCollector
from .lets import Lets, kind_of
from .printer import show

SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
DURATIONS = {"s": 1, "min": 60, "h": 3600}
UNITS = {
    **dict.fromkeys(SIZES, "B"), **dict.fromkeys(DURATIONS, "s"), "bit": "bits", "bits": "bits", "tok/s": "tok/s",
}  # fmt: skip
_WANTS = {"%": "a percentage", "B": "a size", "bits": "a number of bits", "tok/s": "a rate", "s": "a duration"}
_UNITS_MEANT = {
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "mins", "minute", "minutes"), "min"),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
}
_ERROR = re.compile(r"E[0-9]{4}")


class _Failed(Exception):
    """The value was refused, and the report says why."""


@dataclass(frozen=True)
class SourceCall:
    """`hf("folder")`: the source that reads a model, and the path as written."""

    reader: Source
    path: ast.String


@dataclass(frozen=True)
class ModelBlock:
    """The keys of a `model` block."""

    source: SourceCall = param(doc='the model, e.g. hf("folder") or onnx("file.onnx")')  # noqa: RUF009
    context: int = param(
        0,
        doc="number of tokens the K/V cache has room for",
        minimum=2,
        maximum=1 << 20,
        also_called=("ctx", "n_ctx", "context_length", "max_length", "max_model_len", "max_seq_len", "seq_len"),
    )
    shapes: InputShapes | None = param(  # noqa: RUF009
        None,
        doc="shapes of inputs of an ONNX file, in place of the open dimensions that the file states",
        also_called=("input_shapes", "input_shape", "shape", "overwrite_input_shape"),
    )
    sample: tuple[str, ...] = param(
        (),
        doc="inputs of an ONNX file in .npz files, or globs of them: what it is tried with, and calibrated on",
        also_called=("samples", "inputs", "input", "input_data", "example", "example_inputs", "calibration_data"),
    )


@dataclass(frozen=True)
class CalibrationBlock:
    """The keys of a `calibration` block."""

    text: tuple[str, ...] = param(doc="text files, or globs of them")
    samples: int = param(128, doc="number of windows of text", minimum=1)
    length: int = param(512, doc="tokens of each window", minimum=1)
    seed: int = param(0, doc="random seed that picks the windows", minimum=0)


@dataclass(frozen=True)
class EvaluationBlock:
    """The keys of an `evaluation` block."""

    text: tuple[str, ...] = param(doc="text files, or globs of them")
    windows: int = param(32, doc="number of windows of 256 tokens on which perplexity is measured", minimum=1)
    engine_time: float = param(
        20.0,
        doc="how long each model's engine may take; where it gets through fewer windows, the module's figure is "
        "corrected by what the engine costs on those, and where through none it stands alone (the output says which)",
        unit="s",
        minimum=0,
    )


@dataclass(frozen=True)
class DeployBlock:
    """The keys every `deploy` line takes, whatever its target."""

    accept: tuple[WarningCode, ...] = param(
        (), doc="warnings of this deploy that are known and accepted: told once in a line, kept in the manifest"
    )
    reason: str = param("", doc="why the warnings in `accept` are accepted")
    kv: str = param(
        "fp16",
        doc="type of the K/V cache",
        choices=("fp16", *cache_types()),
        also_called=("kv_cache", "cache_type", "kv_type", "kv_dtype"),
        meant={"int8": "`uint8`: the cache has a zero point, so a signed type would hold the same values."},
    )


@dataclass(frozen=True)
class SpeculateBlock:
    """The keys of a `speculate` line."""

    k: int | str = param(
        3,
        doc="calls of the draft per round, a token each; auto: as many as pay, by acceptance and cost of a call",
        choices=("auto",),
        minimum=1,
        maximum=64,
    )
    tree: int = param(
        0,
        doc="tokens of a tree of drafts that the k calls make, all verified at once; without it: a chain of k",
        minimum=1,
        maximum=255,
    )
    overlap: bool = param(
        False, doc="true: while the target verifies, the draft makes the next round's drafts for the likely outcomes"
    )
    source: str = param(
        "draft",
        doc="where drafted tokens come from; prompt: from the text itself where it repeats itself, else from the draft",
        choices=("draft", "prompt"),
    )
    accept: str = param("greedy", doc="rule by which the target accepts a token", choices=("greedy", "sample"))


@dataclass
class Reader:
    """Reads settings for one owner (`pass `quantize``), reporting what is wrong with each."""

    report: DiagnosticCollector
    lets: Lets
    _origin: Label | None = None  # where the value at hand is written, if it stands behind a let

    def read(
        self, settings: Sequence[ast.Setting], cls: type, owner: str, at: Span, extra: type | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Values for `cls` and for `extra`; None when one is wrong or missing."""
        own = {p.name: p for p in parameters(cls)}
        other = {p.name: p for p in parameters(extra)} if extra else {}
        known = {**other, **own}
        before = self.report.errors
        values: dict[str, Any] = {}
        first: dict[str, ast.Setting] = {}
        for setting in settings:
            key = setting.key.text
            if key not in known:
                self._unknown_key(setting, known, owner)
            elif key in first:
                also = [Label(first[key].key.span, "first given here")]
                help = f"leave out one of the two `{key}`"
                self.report.error("E0110", f"`{key}` is given twice", setting.key.span, also=also, help=help)
            else:
                first[key] = setting
                self._convert_into(values, known[key], setting.value)
        unknown = [setting.key.text for setting in settings if setting.key.text not in known]
        mistyped = {nearest(key, known) for key in unknown[:MAX_SHOWN]}
        for parameter in known.values():
            if parameter.required and parameter.name not in first and parameter.name not in mistyped:
                message = f"{owner} needs `{parameter.name}`"
                self.report.error("E0205", message, at, help=f"`{parameter.name}` is {parameter.describe()}")
        failed = self.report.errors > before or len(values) < len(first)
        if failed:
            return None
        return {k: v for k, v in values.items() if k in own}, {k: v for k, v in values.items() if k not in own}

    def construct(
        self, cls: type, values: dict[str, Any], owner: str, settings: Sequence[ast.Setting], at: Span
    ) -> Any:
        """An instance of `cls`, its own `validate` asked; None after an error."""
        made = cls(**(cls.completed(values) if issubclass(cls, Pass) else values))
        if self._without_effect(made, values, owner, settings):
            return None
        validate = getattr(made, "validate", None)
        problems = list(validate()) if validate is not None else []
        for problem in problems:
            key, text, *help = problem if isinstance(problem, tuple) else (None, problem)
            span = next((s.span for s in settings if s.key.text == key), at)
            self.report.error("E0206", f"{owner}: {text}", span, help=help[0] if help else None)
        return None if problems else made

    def _without_effect(self, made: Any, values: dict[str, Any], owner: str, settings: Sequence[ast.Setting]) -> bool:
        """Report each setting that another one's value leaves without an effect."""
        found = False
        for parameter in parameters(type(made)):
            if parameter.goes_with is None or parameter.name not in values:
                continue
            other, wanted = parameter.goes_with
            if getattr(made, other) in wanted:
                continue
            found = True
            setting = next(setting for setting in settings if setting.key.text == parameter.name)
            message = f"{owner}: `{parameter.name}` has no effect without `{other} = {join_or(wanted)}`"
            near = nearest(parameter.name, {p.name for p in parameters(type(made))} - values.keys())
            help = self._meant(parameter, show(setting.value))
            help = help or (f"did you mean `{near}`?" if near else "leave it out")
            self.report.error("E0206", message, setting.span, help=help)
        return found

    def _unknown_key(self, setting: ast.Setting, known: dict[str, Parameter], owner: str) -> None:
        key = setting.key
        if self.report.errors > MAX_SHOWN:  # nobody reads the advice
            self.report.error("E0108", f"{owner} takes no key `{key.text}`", key.span)
            return
        other = next((p for p in known.values() if same_word(key.text, p.also_called)), None)
        opposite = next((found for p in known.values() if (found := self._meant(p, key.text))), None)
        help = self._renamed(setting, other) if other is not None else opposite
        help = help or nearest_help(key.text, known, "key")
        help = help or (f"keys are: {', '.join(known)}" if known else None)
        what = f"{owner} takes no key `{key.text}`" if known else f"{owner} takes no keys"
        self.report.error("E0108", what, key.span, help=help)

    def _renamed(self, setting: ast.Setting, parameter: Parameter) -> str:
        """What to write for a key that other tools have; with the value, where ours takes it as it is."""
        value = show(setting.value)
        if (meant := self._meant(parameter, value)) is not None:
            return meant
        try:
            Reader(DiagnosticCollector(), self.lets)._convert(parameter, setting.value)
        except _Failed:
            return f"here it is `{parameter.name}`: {parameter.describe()}"
        return f"write `{parameter.name} = {value}`"

    def _convert_into(self, values: dict[str, Any], parameter: Parameter, value: ast.Value) -> None:
        resolved = self.lets.resolve(value)
        if resolved is None:
            return
        self._origin = self.lets.origin(value)
        try:
            values[parameter.name] = self._convert(parameter, resolved)
        except _Failed:
            return

    def _convert(self, parameter: Parameter, value: ast.Value) -> Any:
        if isinstance(value, ast.ListLiteral):
            if not parameter.many:
                self._refuse("E0201", parameter, value, f"`{parameter.name}` takes one value, not a list")
            if not value.items:
                self._refuse("E0203", parameter, value, f"`{parameter.name}` needs at least one value")
            return tuple(self._scalar(parameter, item) for item in value.items)
        one = self._scalar(parameter, value)
        return (one,) if parameter.many else one

    def _scalar(self, parameter: Parameter, value: ast.Value) -> Any:
        if isinstance(value, ast.Number):
            return self._number(parameter, value)
        if isinstance(value, ast.Quantity):
            return self._quantity(parameter, value)
        if isinstance(value, ast.Percent):
            if parameter.unit != "%":
                self._unit(parameter, value)
            return self._in_range(parameter, value, value.value / 100)
        if isinstance(value, ast.Word):
            return self._word(parameter, value)
        if isinstance(value, ast.String):
            return self._string(parameter, value)
        if isinstance(value, ast.Boolean) and bool in parameter.types:
            return value.value
        if isinstance(value, ast.PatternLiteral) and Pattern in parameter.types:
            if not 0 < value.value.n < value.value.m:
                self._refuse("E0203", parameter, value, f"`{value.value}` would keep none or all of the values")
            return value.value
        if isinstance(value, ast.RecordLiteral) and InputShapes in parameter.types:
            return self._shapes(parameter, value)
        if isinstance(value, ast.Call) and SourceCall in parameter.types:
            return self._source(value)
        self._mistyped(parameter, value)

    def _number(self, parameter: Parameter, value: ast.Number) -> int | float:
        numeric = int in parameter.types or float in parameter.types
        if not numeric or (isinstance(value.value, float) and float not in parameter.types):
            self._mistyped(parameter, value)
        if parameter.unit:
            self._unit(parameter, value)
        return self._in_range(parameter, value, value.value)

    def _quantity(self, parameter: Parameter, value: ast.Quantity) -> int | float:
        if value.unit not in UNITS:
            self._refuse("E0202", parameter, value, f"unknown unit `{value.unit}`", unit_help(value.unit))
        if UNITS[value.unit] != parameter.unit:
            self._unit(parameter, value)
        number = value.value * {**SIZES, **DURATIONS}.get(value.unit, 1)
        return self._in_range(parameter, value, round(number) if int in parameter.types else number)

    def _in_range(self, parameter: Parameter, value: ast.Value, number: int | float) -> int | float:
        choices = tuple(c for c in parameter.choices if isinstance(c, int | float))
        if choices and number not in choices:
            self._refuse("E0204", parameter, value, f"`{parameter.name}` cannot be `{show(value)}`")
        low, high = parameter.minimum, parameter.maximum
        if not choices and ((low is not None and number < low) or (high is not None and number > high)):
            self._refuse("E0203", parameter, value, f"`{parameter.name}` is out of range: `{show(value)}`")
        return float(number) if int not in parameter.types else number

    def _word(self, parameter: Parameter, value: ast.Word) -> str:
        choices = parameter.choices_of(str)
        if value.text in choices:
            return value.text
        if WarningCode in parameter.types:
            return self._warning_code(parameter, value)
        meant = self._meant(parameter, value.text)
        if choices or meant:
            near = nearest(value.text, map(str, choices))
            help = meant or (f"did you mean `{near}`?" if near else nearest_help(value.text, self.lets.declared, "let"))
            self._refuse("E0204", parameter, value, f"`{parameter.name}` cannot be `{value.text}`", help)
        help = nearest_help(value.text, self.lets.declared, "let")
        if bool in parameter.types and value.text.lower() in ("true", "false"):
            help = f"write `{value.text.lower()}`"
        if help is None and str in parameter.types:
            help = "a string stands in double quotes"
        self._refuse("E0107", parameter, value, f"unknown name `{value.text}`", help)

    def _warning_code(self, parameter: Parameter, value: ast.Word) -> WarningCode:
        from ..compiler.diagnostics.explain import codes  # a plan without `accept` needs no pages
        from ..compiler.diagnostics.plugin_pages import page_files

        known = [code for code in codes(page_files()) if not _ERROR.fullmatch(code)]
        if value.text in known:
            return WarningCode(value.text)
        what = "an error, which cannot be accepted" if _ERROR.fullmatch(value.text) else "no warning's code"
        help = "`edgec explain` lists the codes; those of warnings begin with W"
        self._refuse("E0204", parameter, value, f"`{value.text}` is {what}", help)

    @staticmethod
    def _meant(parameter: Parameter, word: str) -> str | None:
        """The help line for a value that other tools have; one ending in `.` is an explanation, not a line to write."""
        found = next((text for other, text in parameter.meant.items() if same_word(word, (other,))), None)
        return None if found is None else found if found.endswith(".") else f"write `{found}`"

    def _string(self, parameter: Parameter, value: ast.String) -> str:
        choices = parameter.choices_of(str)
        if str in parameter.types and not choices:
            return value.value
        if value.value in choices:
            self._refuse("E0201", parameter, value, f"`{parameter.name}` is a word, not a string", "drop the quotes")
        if (meant := self._meant(parameter, value.value)) is not None:
            self._refuse("E0204", parameter, value, f"`{parameter.name}` cannot be {show(value)}", meant)
        if SourceCall in parameter.types:
            self._refuse("E0201", parameter, value, "a source says what it is", f"write `hf({show(value)})`")
        self._mistyped(parameter, value)

    def _shapes(self, parameter: Parameter, value: ast.RecordLiteral) -> InputShapes:
        found = InputShapes()
        for entry in value.entries:
            sizes = entry.value.items if isinstance(entry.value, ast.ListLiteral) else ()
            numbers = tuple(one.value for one in sizes if isinstance(one, ast.Number) and isinstance(one.value, int))
            if not isinstance(entry.value, ast.ListLiteral) or len(numbers) < len(sizes) or min(numbers, default=1) < 1:
                message = f"the shape of `{entry.name}` is a list of positive integers"
                self._refuse("E0201", parameter, entry.value, message)
            if entry.name in found:
                self._refuse("E0203", parameter, value, f"`{entry.name}` has two shapes")
            found[entry.name] = tuple(int(one) for one in numbers)
        return found

    def _source(self, value: ast.Call) -> SourceCall:
        try:
            source = find_source(value.name.text)
        except PlanError as error:
            self.report.take(error, value.name.span)
            raise _Failed from None
        if not isinstance(value.argument, ast.String):
            self.report.error("E0201", f"`{value.name.text}` takes a path in quotes", value.argument.span)
            raise _Failed
        return SourceCall(source(), value.argument)

    def _unit(self, parameter: Parameter, value: ast.Value) -> NoReturn:
        if parameter.unit is None:
            self._mistyped(parameter, value)
        help = f"write `{show(value)} {parameter.unit}`" if isinstance(value, ast.Number) and parameter.unit else None
        self._refuse("E0202", parameter, value, f"`{parameter.name}` is {_WANTS[parameter.unit or '']}", help)

    def _mistyped(self, parameter: Parameter, value: ast.Value) -> NoReturn:
        meant = [choice for choice in parameter.choices_of(str) if str(choice).endswith(show(value))]
        help = f"did you mean `{meant[0]}`?" if meant else self._meant(parameter, show(value))
        self._refuse("E0201", parameter, value, f"`{parameter.name}` cannot be {kind_of(value)}", help)

    def _refuse(
        self, code: str, parameter: Parameter, value: ast.Value, message: str, help: str | None = None
    ) -> NoReturn:
        help = help or f"`{parameter.name}` is {parameter.describe()}"
        also = [self._origin] if self._origin else []
        self.report.error(code, message, value.span, also=also, help=help)
        raise _Failed


def unit_help(unit: str) -> str:
    """The help line for an unknown unit: the nearest one, or all of them."""
    near = _UNITS_MEANT.get(unit.lower()) or nearest(unit, UNITS)
    return f"there is a unit `{near}`" if near else f"units are: {', '.join(UNITS)}, %"
