"""The table of `edgec inspect FILE.onnx`: a row for each kind of op, a column for each target, and reasons below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..diagnostics.wording import count, quoted, some_of

_NAMES = 4  # of nodes in one line; `--json` has all


def table(targets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of text for `facts["targets"]` of an ONNX file."""
    ops = next(iter(targets.values()))["ops"]
    rows = [["op", "count", *(f"as {name}" for name in targets)]]
    for op, facts in ops.items():
        rows.append([op, str(facts["count"]), *(_cell(one["ops"][op], one["all_told"]) for one in targets.values())])
    rows.append(["the model", "", *("taken" if one["takes"] else "not" for one in targets.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield "targets:"
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if not all(one["takes"] for one in targets.values()):
        yield "  not: by edgec's rules; `as mnn` and `as qnn` then try the engine's own lowering, and prove it"
    for name, one in targets.items():
        yield from _reasons(name, one)


def _cell(row: Mapping[str, Any], told: bool) -> str:
    """`?`: behind an input that the target refuses, ops are not looked at. `to prove`: a run of the engine tells."""
    if row["unproven"] and not row["refused"]:
        return "to prove"
    if not row["refused"]:
        return "taken" if told else "?"
    return "not" if row["refused"] == row["count"] else f"{row['refused']} not"


def _reasons(name: str, one: Mapping[str, Any]) -> Iterator[str]:
    if not one.get("others") and not any("reasons" in row for row in one["ops"].values()):
        return
    yield f"as {name}:"
    if not one["all_told"]:
        yield "  ?: told once its inputs have sizes, which `shapes = { NAME: [1, 3, 224, 224] }` gives in a plan"
    for reason, names in one.get("others", {}).items():
        yield f"  {_listed(names)}{reason}"
    for op, facts in one["ops"].items():
        for reason, names in facts.get("reasons", {}).items():
            yield f"  {count(len(names), 'node')} {op} {_listed(names)}{reason}"


def _listed(names: list[str]) -> str:
    """`a`, `b` and 3 more:"""
    return f"{some_of(quoted(names), _NAMES)}: " if names else ""
