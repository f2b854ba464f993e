"""Names and the statements that declare them, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ..compiler.diagnostics.diagnostic import Label
from . import ast
from .diagnostic_collector import DiagnosticCollector
from .loader import Loaded

_Named = TypeVar("_Named", ast.Model, ast.Pipeline, ast.Let)
_Single = TypeVar("_Single", ast.PlanName, ast.Device, ast.Calibration, ast.Evaluation)


@dataclass
class Declared:
    """The plan's statements by kind; of what is declared twice the first counts."""

    name: ast.PlanName | None = None
    device: ast.Device | None = None
    calibration: ast.Calibration | None = None
    evaluation: ast.Evaluation | None = None
    lets: dict[str, ast.Let] = field(default_factory=dict)
    models: dict[str, ast.Model] = field(default_factory=dict)
    pipelines: dict[str, ast.Pipeline] = field(default_factory=dict)
    deploys: list[ast.Deploy] = field(default_factory=list)
    speculates: list[ast.Speculate] = field(default_factory=list)
    requires: list[ast.Require] = field(default_factory=list)
    goals: list[ast.Goal] = field(default_factory=list)


_INSTEAD = {  # of a second statement
    "`plan`": "a plan has one name: leave one out, or a file that is included",
    "`device`": "make a plan for each, and `include` the rest",
    "`calibration`": 'one block takes several texts: `text = ["a.txt", "b.txt"]`',
    "`evaluation`": 'one block takes several texts: `text = ["a.txt", "b.txt"]`',
}


def collect(loaded: Loaded, report: DiagnosticCollector) -> Declared:
    """Sort the statements by kind. A second declaration of one name, or a second `device`, is E0109."""
    found = Declared()
    by_type: dict[type, list] = {}
    for statement in loaded.statements:
        by_type.setdefault(type(statement), []).append(statement)
    found.name = _single(by_type.get(ast.PlanName, []), "`plan`", report)
    found.device = _single(by_type.get(ast.Device, []), "`device`", report)
    found.calibration = _single(by_type.get(ast.Calibration, []), "`calibration`", report)
    found.evaluation = _single(by_type.get(ast.Evaluation, []), "`evaluation`", report)
    found.lets = _named(by_type.get(ast.Let, []), "let", report)
    found.models = _named(by_type.get(ast.Model, []), "model", report)
    found.pipelines = _named(by_type.get(ast.Pipeline, []), "pipeline", report)
    found.deploys = by_type.get(ast.Deploy, [])
    found.speculates = by_type.get(ast.Speculate, [])
    found.requires = by_type.get(ast.Require, [])
    found.goals = [*by_type.get(ast.Goal, []), *(goal for block in found.requires for goal in block.goals)]
    return found


def _single(statements: Sequence[_Single], noun: str, report: DiagnosticCollector) -> _Single | None:
    for again in statements[1:]:
        also = [Label(statements[0].span, "first here")]
        report.error("E0109", f"the plan has two {noun} statements", again.span, also=also, help=_INSTEAD[noun])
    return statements[0] if statements else None


def _named(statements: Sequence[_Named], noun: str, report: DiagnosticCollector) -> dict[str, _Named]:
    found: dict[str, _Named] = {}
    for statement in statements:
        name = statement.name
        if name.text in found:
            also = [Label(found[name.text].name.span, "first declared here")]
            help = f"give one of them another name, or leave out a `{noun}`"
            report.error("E0109", f"the {noun} `{name.text}` is declared twice", name.span, also=also, help=help)
        else:
            found[name.text] = statement
    return found
