"""The report's section on one model: the lines it went through, its parts and buckets, its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..ir import kv_names
from ..plan.plan import resolved_line
from .lanes import picture
from .markup import code, escape, folded, items, prose, section, size, table, written
from .memory import memory_section
from .weights import stated, weights_section

if TYPE_CHECKING:
    from ..compile.compile_model import CompiledModel
    from ..pipeline.pass_interface import FiguresTable, StepResult
    from ..plan.plan import Plan

_SKIPS = 50
_NOTES = 6  # of a step, before they are folded away


def model_section(model: CompiledModel, plan: Plan, manifest: Mapping[str, Any], address: str) -> str:
    """All that is said of one model."""
    entry = manifest["models"][model.name]
    blocks = [_facts(entry), _steps(model, plan), items(model.emission.notes), _parts(model, manifest)]
    kv = (entry.get("kv") or {}).get("dtype", "in the engine's own type")
    blocks.append(memory_section(model.memory, manifest["memory"][model.name], kv))
    blocks.append(_sparse(entry))
    blocks.append(weights_section(entry, model.weight_errors))
    return section(model.name, *blocks, address=address)


def _facts(entry: Mapping[str, Any]) -> str:
    arch = entry.get("arch")
    if arch is None:
        return f"<p class=quiet>{escape('a general ONNX graph' + stated(entry, '; '))}</p>"
    described = (
        f"{arch['family']}, {arch['layers']} layers, hidden {arch['hidden']:,}, {arch['heads']} heads with "
        f"{arch['kv_heads']} of K/V, head_dim {arch['head_dim']}, vocabulary {arch['vocab']:,}, "
        f"context {arch['context']:,}"
    )
    options = ", ".join(f"{key} = {written(value)}" for key, value in entry["deploy"]["options"].items())
    return f"<p class=quiet>{escape(described + (f'; {options}' if options else '') + stated(entry, '; '))}</p>"


def _sparse(entry: Mapping[str, Any]) -> str:
    """What a pattern of zeros buys in each part."""
    rows = []
    for row in entry.get("sparse", []):
        held, dense = row["bytes"], max(row["bytes"]["dense"], 1)
        shares = [f"{size(held[key])} <small>{held[key] / dense:.3f} of dense</small>" for key in ("disk", "token")]
        figures = [str(row["weights"]), escape(row["form"]), *shares, escape(row["speed"])]
        rows.append([code(row["part"]), escape(row["pattern"]), *figures, prose(row["why"])])
    head = ["part", "pattern", "weights", "stored", "on disk", "read for a token", "speed", "because"]
    shown = table("what sparsity buys", head, rows, numbers=[2])
    return shown and "<h3>What sparsity buys</h3>" + shown


def _steps(model: CompiledModel, plan: Plan) -> str:
    rows = []
    for step, line in _written(model, plan):
        skips = "".join(f"<li>{code(skip.node)}: {prose(skip.reason)}</li>" for skip in step.skips[:_SKIPS])
        more = f"<li>and {len(step.skips) - _SKIPS} more</li>" if len(step.skips) > _SKIPS else ""
        left = folded(f"{len(step.skips)} left alone", f"<ul>{skips}{more}</ul>") if step.skips else ""
        moved = f"{max(step.error.values()):.2e}" if step.error else ""
        rows.append([code(line) + _notes_html(step), str(step.changes), moved, left])
    head = ["pass, with its values as used", "changes", "outputs moved by", "skips"]
    shown = table(f"passes of {model.name}", head, rows, numbers=[1, 2], wraps=0)
    return shown and "<h3>Passes</h3>" + shown


def _notes_html(step: StepResult) -> str:
    """A step's notes, the first ones open, and its tables, folded away."""
    rest = folded(f"{len(step.notes) - _NOTES} more notes", items(step.notes[_NOTES:]))
    tables = "".join(folded(prose(table.title), _figures(table)) for table in step.tables)
    return items(step.notes[:_NOTES]) + rest + tables


def _figures(figures: FiguresTable) -> str:
    rows = [[code(row[0]), *map(escape, row[1:])] for row in figures.rows]
    for row, at in zip(rows, figures.marked, strict=False):
        row[at] = f"<mark>{row[at]}</mark>"
    return table(figures.title, [escape(word) for word in figures.head], rows, numbers=range(1, len(figures.head)))


def _written(model: CompiledModel, plan: Plan) -> Iterator[tuple[StepResult, str]]:
    """Each step that ran, with its line, values filled in (a step that the deploy line implies has its name)."""
    steps = list(plan.steps(model.deploy))
    for result in model.steps:
        if steps and steps[0].span == result.origin:
            yield result, resolved_line(steps.pop(0))
        else:
            yield result, result.pass_name


def _parts(model: CompiledModel, manifest: Mapping[str, Any]) -> str:
    rows = []
    names = list(model.emission.parts)
    for name in names:
        part = manifest["parts"][name]
        graphs = list(part["graphs"].values())
        passed = [_boundary(graphs[0][side]) for side in ("inputs", "outputs")]
        buckets = " ".join(code(graph) for graph in part["graphs"])
        where = f"{escape(part['target'])} on {escape(part['device'])}"
        rows.append([code(name), where, code(part["file"]), buckets, " → ".join(passed)])
    head = ["part", "runs as", "file", "graphs", "reads → makes"]
    drawn = picture(manifest["models"][model.name], manifest["parts"], names)
    return "<h3>Parts</h3>" + drawn + table(f"parts of {model.name}", head, rows, wraps=4)


def _boundary(tensors: Sequence[Mapping[str, Any]]) -> str:
    """Names of a graph's inputs (or outputs); K/V tensors are counted, not listed."""
    own = [str(spec["name"]) for spec in tensors if not kv_names.is_cache(spec["name"])]
    held = len(tensors) - len(own)
    shown = ", ".join(code(name) for name in own[:6]) + (" …" if len(own) > 6 else "")
    return shown + (f" + {held} of K/V" if held else "")
