"""The tree as text again: `parse(show(tree)) == tree`."""

from __future__ import annotations

from collections.abc import Sequence

from . import ast

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def show(node: ast.Node | ast.File) -> str:
    """`node` as a plan would have it."""
    return _SHOW[type(node)](node)


def _file(node: ast.File) -> str:
    return "".join(f"{show(statement)}\n" for statement in node.statements)


def _string(node: ast.String) -> str:
    return '"' + "".join(_character(c) for c in node.value) + '"'


def _character(c: str) -> str:
    return _ESCAPES.get(c) or (c if c.isprintable() or ord(c) > 0xFFFF else f"\\u{ord(c):04x}")


def _number(value: int | float) -> str:
    """`repr` has an exponent or a point for every finite float, and the grammar reads both."""
    return repr(value)


def _list(node: ast.ListLiteral) -> str:
    return "[" + ", ".join(show(item) for item in node.items) + "]"


def _record(node: ast.RecordLiteral) -> str:
    return f"{{ {', '.join(map(show, node.entries))} }}" if node.entries else "{ }"


def _setting(node: ast.Setting) -> str:
    return f"{node.key.text} = {show(node.value)}"


def _block(head: str, parts: Sequence[ast.Node]) -> str:
    if not parts:
        return f"{head} {{ }}"
    return "\n".join((f"{head} {{", *(f"  {show(part)}" for part in parts), "}"))


def _options(settings: Sequence[ast.Setting]) -> str:
    return f" {{ {'  '.join(map(show, settings))} }}" if settings else ""


def _step(node: ast.Step) -> str:
    text = node.name.text
    if node.settings:
        text += f"({', '.join(map(show, node.settings))})"
    if node.on is not None:
        text += f" on {show(node.on)}"
    if node.except_ is not None:
        text += f" except {show(node.except_)}"
    return text


def _deploy(node: ast.Deploy) -> str:
    through = f" through {node.pipeline.text}" if node.pipeline else ""
    head = f"deploy {node.model.text} on {node.place.text}{through} as {node.target.text}"
    return head + _options(node.settings)


_SHOW = {
    ast.File: _file,
    ast.Name: lambda n: n.text,
    ast.Word: lambda n: n.text,
    ast.Number: lambda n: _number(n.value),
    ast.Quantity: lambda n: f"{_number(n.value)} {n.unit}",
    ast.Percent: lambda n: f"{_number(n.value)}%",
    ast.PatternLiteral: lambda n: str(n.value),
    ast.String: _string,
    ast.Boolean: lambda n: "true" if n.value else "false",
    ast.Call: lambda n: f"{n.name.text}({show(n.argument)})",
    ast.Product: lambda n: f"{_number(n.factor)} * {n.name.text}",
    ast.ListLiteral: _list,
    ast.RecordLiteral: _record,
    ast.Entry: lambda n: f"{show(n.key)}: {show(n.value)}",
    ast.Setting: _setting,
    ast.Tune: lambda n: f"tune({', '.join(map(show, n.values))})",
    ast.Goal: lambda n: f"goal = {n.subject}",
    ast.PlanName: lambda n: f"plan {n.name.text}",
    ast.Let: lambda n: f"let {n.name.text} = {show(n.value)}",
    ast.Include: lambda n: f"include {show(n.path)}",
    ast.Use: lambda n: f"use {show(n.path)}",
    ast.Device: lambda n: f"device {show(n.value)}",
    ast.Model: lambda n: _block(f"model {n.name.text}", n.settings),
    ast.Calibration: lambda n: _block("calibration", n.settings),
    ast.Evaluation: lambda n: _block("evaluation", n.settings),
    ast.Pipeline: lambda n: _block(f"pipeline {n.name.text}", n.steps),
    ast.Step: _step,
    ast.Deploy: _deploy,
    ast.Speculate: lambda n: f"speculate {n.draft.text} -> {n.target.text}{_options(n.settings)}",
    ast.Condition: lambda n: f"{n.subject} {n.op} {show(n.bound)}",
    ast.Require: lambda n: _block("require", (*n.conditions, *n.goals)),
}
