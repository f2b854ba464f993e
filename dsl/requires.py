"""`require`: what the finished bundle has to hold, with bounds in plain numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..compiler.diagnostics.nearest import nearest, same_word
from ..compiler.plan.devices import Device
from ..compiler.plan.measure import Measure, subject_of
from ..compiler.plan.plan import Comparison, Goal, Require
from ..compiler.registry import measures
from . import ast
from .declared import Declared
from .loader import Loaded
from .printer import show
from .settings import SIZES, UNITS, Reader, unit_help

_COMPARISONS: dict[str, Comparison] = {"<=": "<=", ">=": ">=", "<": "<", ">": ">"}


def check_requirement(
    condition: ast.Condition,
    declared: Declared,
    loaded: Loaded,
    reader: Reader,
    graphs: Collection[str],
    devices: Sequence[Device],
) -> Require | None:
    """The requirement with its bound in plain numbers; `graphs` are the models that are no language models."""
    report = reader.report
    found = _measured(condition.subject, condition, "required", declared, loaded, reader, graphs, devices)
    if found is None:
        return None
    measure, model = found
    op = _COMPARISONS.get(condition.op)
    if op is None:
        help = "compare with `<=`, `<`, `>=` or `>`"
        report.error("E0204", f"a measured value is not compared with `{condition.op}`", condition.span, help=help)
        return None
    bound = _bound(condition, measure, reader)
    if measure.of == "model" and not _can_measure(model, measure, condition, declared, loaded, reader):
        return None
    if bound is None:
        return None
    relative = isinstance(condition.bound, ast.Product)
    if op in ("<=", "<") and not relative and bound < measure.looks_relative_below:
        message = f"no text has a {measure.name} of {bound:g}: this line cannot hold"
        if bound >= 1:
            message = f"a {measure.name} of {bound:g} is that of a text known by heart"
        help = f"a bound beside the float model's is written `{max(bound, 1):g} * baseline`"
        report.warning("W0312", message, condition.bound.span, help=help, models=(model,))
    return Require(condition.subject, op, bound, relative, show(condition), condition.span)


def check_goal(
    goal: ast.Goal,
    declared: Declared,
    loaded: Loaded,
    reader: Reader,
    graphs: Collection[str],
    devices: Sequence[Device],
) -> Goal | None:
    """The goal, if it names something that is measured of this plan."""
    found = _measured(goal.subject, goal, "a goal", declared, loaded, reader, graphs, devices)
    if found is None:
        return None
    measure, model = found
    if measure.of == "model" and not _can_measure(model, measure, goal, declared, loaded, reader):
        return None
    return Goal(goal.subject, goal.span)


def _measured(
    subject: str,
    line: ast.Condition | ast.Goal,
    role: str,
    declared: Declared,
    loaded: Loaded,
    reader: Reader,
    graphs: Collection[str],
    devices: Sequence[Device],
) -> tuple[type[Measure], str] | None:
    """The measure that `subject` names and the model it is of; None after an error."""
    report, installed = reader.report, measures()
    name, owner = subject_of(subject, installed)
    model = owner or ""
    known = [f"bundle.{one}" for one, cls in installed.items() if cls.of == "bundle"]
    known += [f"{decl}.{one}" for decl in declared.models for one, cls in installed.items() if cls.of == "model"]
    known += [one for one, cls in installed.items() if cls.of == "device"]
    if subject not in known:
        of_model = name in installed and installed[name].of == "model"
        if not of_model or not (model in loaded.lost_names("model") or loaded.gave_up):
            near = nearest(subject, known) or _meant(subject, known)
            help = f"did you mean `{near}`?" if near else f"what can be required: {', '.join(known)}"
            report.error("E0116", f"`{subject}` cannot be {role}", line.span, help=help)
        return None
    measure = installed[name]
    if measure.decoders_only and model in graphs:
        message = f"`{model}` is an ONNX graph, {name} is measured on language models"
        report.error("E0219", message, line.span)
        return None
    if measure.unit == "tok/s" and (without := _without_speed(devices)):
        message = f"`{subject}` cannot be estimated for `{without[0].name}`: no bandwidth of it is published"
        report.error("E0117", message, line.span, help="name a chip of `edgec devices` with a memory rate")
        return None
    return measure, model


def _without_speed(devices: Sequence[Device]) -> list[Device]:
    """The devices that no rate can be estimated for."""
    from ..compiler.estimate.lane_speed import chip_speed  # a plan without such a line needs no fit

    return [device for device in devices if not chip_speed(device).lanes]


def _meant(subject: str, known: Collection[str]) -> str | None:
    """The measure that has the last word of `subject` for another name, of the same model or bundle, or the device."""
    owner, _, word = subject.rpartition(".")
    meant = [(name, measure) for name, measure in measures().items() if same_word(word, measure.also_called)]
    names = [name if measure.of == "device" else f"{owner}.{name}" for name, measure in meant]
    whose = [one for one in known if not owner and one.endswith(f".{word}")]  # `perplexity`, of the only model
    names += whose if len(whose) == 1 else []
    return next((name for name in names if name in known), None)


def _can_measure(
    model: str,
    measure: type[Measure],
    line: ast.Condition | ast.Goal,
    declared: Declared,
    loaded: Loaded,
    reader: Reader,
) -> bool:
    no_text = declared.evaluation is None and not loaded.lost_names("evaluation") and not loaded.gave_up
    if measure.needs_evaluation and no_text:
        help = 'add `evaluation { text = "…"  windows = 32 }`'
        reader.report.error("E0216", f"{measure.name} needs a text to be measured on", line.span, help=help)
        return False
    deployed = {deploy.model.text for deploy in declared.deploys}
    if model not in deployed and not loaded.lost_names("deploy"):
        message = f"`{model}` is not deployed, so its {measure.name} is not measured"
        help = f"add `deploy {model} on cpu as …`, or leave this line out"
        reader.report.error("E0215", message, line.span, help=help)
        return False
    return True


def _bound(condition: ast.Condition, measure: type[Measure], reader: Reader) -> float | None:
    report, bound, size, rate = reader.report, condition.bound, measure.unit == "B", measure.unit == "tok/s"
    if isinstance(bound, ast.Product):
        if bound.name.text != "baseline":
            help = "only `baseline`, the float model's own value, can be multiplied"
            report.error("E0107", f"unknown name `{bound.name.text}`", bound.name.span, help=help)
            return None
        if not measure.has_baseline:
            noun, example = ("a size", "a size like `3.4 GiB`") if size else (f"`{condition.subject}`", "a number")
            noun, example = ("a rate", "a rate like `15 tok/s`") if rate else (noun, example)
            report.error("E0201", f"{noun} has no baseline", bound.span, help=f"write {example}")
            return None
        return float(bound.factor)
    value = reader.lets.resolve(bound)
    if value is None:
        return None
    if isinstance(value, ast.Quantity) and value.unit not in UNITS:
        report.error("E0202", f"unknown unit `{value.unit}`", value.span, help=unit_help(value.unit))
        return None
    if size and isinstance(value, ast.Quantity) and value.unit in SIZES:
        return float(value.value * SIZES[value.unit])
    if rate and isinstance(value, ast.Quantity) and value.unit == "tok/s" and value.value > 0:
        return float(value.value)
    if rate:
        example = show(value) if isinstance(value, ast.Number) else "15"
        help = f"write e.g. `{example} tok/s`"
        report.error("E0202", f"`{condition.subject}` is a rate above 0", value.span, help=help)
        return None
    if size:
        example = f"{show(value)} MB" if isinstance(value, ast.Number) else "3.4 GiB"
        report.error("E0202", f"`{condition.subject}` is a size", value.span, help=f"give it a unit, e.g. `{example}`")
        return None
    if isinstance(value, ast.Number) and value.value > 0:
        return float(value.value)
    if isinstance(value, ast.Word) and value.text == "baseline":
        report.error(
            "E0201", "a bound relative to the baseline is a product", value.span, help="write `1.0 * baseline`"
        )
        return None
    help = "write a number, or e.g. `1.03 * baseline`" if measure.has_baseline else "write a number"
    if isinstance(value, ast.Percent) and measure.has_baseline:
        factor = 1 + value.value / 100 if value.value < 50 else value.value / 100  # `5%` more, or `105%` of it
        help = f"write `{factor:g} * baseline`"
    report.error("E0201", f"{measure.name} is compared with a number above 0", value.span, help=help)
    return None
