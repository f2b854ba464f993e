"""The bundle's report: what was done to each model, layer by layer, as one self-contained HTML page.

Tables and inline SVG, no script and nothing from outside. The same compile gives the same bytes: no times, no paths.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir import kv_names
from ..ir.weight_format import WeightFormat
from ..plan.plan import resolved_line
from .plots import bar, by_layer, stack

if TYPE_CHECKING:
    from ..compile.compile_model import CompiledModel
    from ..compile.requirements import Measured
    from ..pipeline.pass_interface import FiguresTable, StepResult
    from ..plan.plan import Plan

_FLAT = 60  # weights a table shows before it is folded away
_SKIPS = 50
_NOTES = 6  # of a step, before they are folded away


def write_report(
    path: Path, plan: Plan, models: Sequence[CompiledModel], measured: Measured, manifest: dict[str, Any]
) -> None:
    """Write the page for one compile to `path`."""
    device = plan.devices[0]
    chip = device.marketing + (f" ({device.sm}, HTP {device.arch})" if device.arch else "")
    body = [f"<h1>{_e(plan.name)}</h1>", f"<p class=quiet>compiled for {_e(chip)}</p>"]
    broken = any(not row["holds"] for row in measured.requires)
    body += [_requires(measured), _warnings(manifest["warnings"]), _overview(models, measured, manifest)]
    body += [_model(model, plan, manifest) for model in models]
    body += [_plan(plan), _rest(manifest)]
    title = f"{plan.name}: {'rejected, ' if broken else ''}edgec report"
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{_e(title)}</title><style>{style}</style>\n" + "\n".join(filter(None, body))
    )
    path.write_text(page + "\n</html>\n", encoding="utf-8")


def _e(text: object) -> str:
    return html.escape(str(text))


def _code(text: object) -> str:
    return f"<code>{_e(text)}</code>"


def _prose(text: str) -> str:
    """A sentence of ours: names in backticks become code."""
    return "".join(_code(piece) if index % 2 else _e(piece) for index, piece in enumerate(text.split("`")))


def _size(count: float) -> str:
    return f"{count / 1e6:,.2f} MB"


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Sequence[int] = (),
    prose: bool = False,
    wide: bool = False,
) -> str:
    """Cells are HTML; the columns in `numbers` are right-aligned, columns that are empty throughout are left out.

    `prose`: the first column may wrap; `wide`: the second may.
    """
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    if not kept:
        return ""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=n' if i in numbers else ''}>{row[i]}</{tag}>" for i in kept)

    lines = [f"<tr>{cells('th', head)}</tr>", *(f"<tr>{cells('td', row)}</tr>" for row in rows)]
    kind = " class=prose" if prose else " class=wide" if wide else ""
    return f"<div class=scroll><table{kind}>" + "\n".join(lines) + "</table></div>"


def _requires(measured: Measured) -> str:
    rows = [[_code(row["line"]), _e(row["text"]), _verdict(row["holds"])] for row in measured.requires]
    return "<h2>Requirements</h2>" + _table(["line", "measured", ""], rows) if rows else ""


def _warnings(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for row in found:
        said = f"<p class=quiet>accepted: {_e(row['accepted'])}</p>" if row.get("accepted") else ""
        rows.append(
            [
                _code(row["code"]),
                _prose(row["message"]) + said,
                "<br>".join(map(_prose, (row["help"] or "").splitlines())),
            ]
        )
    return "<h2>Warnings</h2>" + _table(["", "what the check says", "what to do"], rows, wide=True) if rows else ""


def _plan(plan: Plan) -> str:
    """The values of the lets, those from `-D` marked, and the text of every file of the plan, folded away."""
    rows = [
        [_code(name), _code(_written_value(value)), "from <code>-D</code>" if name in plan.overridden else ""]
        for name, value in plan.defines.items()
    ]
    texts = "".join(
        f"<details><summary>{_e(Path(name).name)}</summary><pre>{_e(text)}</pre></details>"
        for name, text in plan.sources.items()
        if not name.startswith("-D ")
    )
    return "<h2>Plan</h2>" + (_table(["let", "value", ""], rows) if rows else "") + texts


def _written_value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_written_value, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _verdict(holds: bool) -> str:
    return "<span class=good>holds</span>" if holds else "<span class=bad>does not hold</span>"


def _overview(models: Sequence[CompiledModel], measured: Measured, manifest: dict[str, Any]) -> str:
    rows = []
    for model in models:
        entry = manifest["models"][model.name]
        value, base = measured.perplexity.get(model.name), measured.baseline.get(model.name)
        said = f"; {_prose(str(measured.judged[model.name]))}" if model.name in measured.judged else ""
        of = f"<span class=quiet>{value / base:.4f} of the float model{said}</span>" if value and base else ""
        ratio = f"{value:.4f} {of}" if of else ""
        where = f"{_e(model.deploy.target)} on {_e(model.deploy.device)}"
        bits = f"{_mean_bits(entry):.2f}" if entry["weights"] else ""
        rows.append([_code(model.name), _e(entry["role"]), where, _size(entry["bytes"]), bits, ratio])
    head = ["model", "role", "runs as", "size", "bits per weight", "perplexity"]
    shares = [(model.name, float(manifest["models"][model.name]["bytes"])) for model in models]
    drawn = stack(shares) if len(shares) > 1 else ""
    return "<h2>Models</h2>" + _table(head, rows, numbers=[3, 4]) + _rounds(manifest["speculation"]) + drawn


def _rounds(pair: Mapping[str, Any] | None) -> str:
    if pair is None:
        return ""
    how = "greedily" if pair["accept"] == "greedy" else "by sampling"
    return (
        f"<p>{_code(pair['draft'])} drafts {pair['k']} tokens a round, which {_code(pair['target'])} accepts {how}.</p>"
    )


def _model(model: CompiledModel, plan: Plan, manifest: dict[str, Any]) -> str:
    entry = manifest["models"][model.name]
    blocks = [f"<h2>{_e(model.name)}</h2>", _facts(entry), _steps(model, plan), _notes(model.emission.notes)]
    blocks += [_parts(model, manifest), _cache(model.name, manifest) if entry["kind"] == "decoder" else ""]
    blocks.append(_weights(entry["weights"], model.weight_errors))
    return "\n".join(filter(None, blocks))


def _facts(entry: Mapping[str, Any]) -> str:
    arch = entry.get("arch")
    if arch is None:
        return f"<p class=quiet>{_e('a general ONNX graph' + _stated(entry, '; '))}</p>"
    described = (
        f"{arch['family']}, {arch['layers']} layers, hidden {arch['hidden']:,}, {arch['heads']} heads with "
        f"{arch['kv_heads']} of K/V, head_dim {arch['head_dim']}, vocabulary {arch['vocab']:,}, "
        f"context {arch['context']:,}"
    )
    options = ", ".join(f"{key} = {value}" for key, value in entry["deploy"]["options"].items())
    return f"<p class=quiet>{_e(described + (f'; {options}' if options else '') + _stated(entry, '; '))}</p>"


def _stated(entry: Mapping[str, Any], between: str) -> str:
    """What passes have stated about a model or a weight, each behind `between`."""
    facts = entry.get("facts", {}).items()
    return "".join(f"{between}{key.removeprefix('edgec.')} {text}" for key, text in facts)


def _steps(model: CompiledModel, plan: Plan) -> str:
    rows = []
    for step, written in _written(model, plan):
        skips = "".join(f"<li>{_code(skip.node)}: {_prose(skip.reason)}</li>" for skip in step.skips[:_SKIPS])
        more = f"<li>and {len(step.skips) - _SKIPS} more</li>" if len(step.skips) > _SKIPS else ""
        left = f"<details><summary>{len(step.skips)} left alone</summary><ul>{skips}{more}</ul></details>"
        moved = f"{max(step.error.values()):.2e}" if step.error else ""
        rows.append([_code(written) + _notes_html(step), str(step.changes), moved, left if step.skips else ""])
    head = ["pass", "changes", "outputs moved by", "skips"]
    return "<h3>Passes</h3>" + _table(head, rows, numbers=[1, 2], prose=True) if rows else ""


def _notes_html(step: StepResult) -> str:
    """A step's notes, the first ones open, and its tables, folded away."""
    first, rest = _notes(step.notes[:_NOTES]), _notes(step.notes[_NOTES:])
    folded = f"<details><summary>{len(step.notes) - _NOTES} more notes</summary>{rest}</details>" if rest else ""
    tables = "".join(
        f"<details><summary>{_prose(table.title)}</summary>{_figures(table)}</details>" for table in step.tables
    )
    return first + folded + tables


def _figures(table: FiguresTable) -> str:
    rows = [[_code(row[0]), *map(_e, row[1:])] for row in table.rows]
    for row, at in zip(rows, table.marked, strict=False):
        row[at] = f"<mark>{row[at]}</mark>"
    return _table([_e(word) for word in table.head], rows, numbers=range(1, len(table.head)))


def _written(model: CompiledModel, plan: Plan) -> Iterator[tuple[StepResult, str]]:
    """Each step that ran, with its line, values filled in (a step that the deploy line implies has its name)."""
    steps = list(plan.steps(model.deploy))
    for result in model.steps:
        if steps and steps[0].span == result.origin:
            yield result, resolved_line(steps.pop(0))
        else:
            yield result, result.pass_name


def _notes(notes: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_prose(note)}</li>" for note in notes) + "</ul>" if notes else ""


def _parts(model: CompiledModel, manifest: dict[str, Any]) -> str:
    rows = []
    for name in model.emission.parts:
        part = manifest["parts"][name]
        graphs = list(part["graphs"].values())
        first = graphs[0]
        passed = [_boundary(first[side]) for side in ("inputs", "outputs")]
        buckets = " ".join(_code(graph) for graph in part["graphs"])
        where = f"{_e(part['target'])} on {_e(part['device'])}"
        rows.append([_code(name), where, _code(part["file"]), buckets, " → ".join(passed)])
    return "<h3>Parts</h3>" + _table(["part", "runs as", "file", "graphs", "reads → makes"], rows)


def _boundary(tensors: Sequence[Mapping[str, Any]]) -> str:
    """Names of a graph's inputs (or outputs); K/V tensors are counted, not listed."""
    own = [str(spec["name"]) for spec in tensors if not kv_names.is_cache(spec["name"])]
    held = len(tensors) - len(own)
    return _e(", ".join(own[:6]) + (" …" if len(own) > 6 else "")) + (f" + {held} of K/V" if held else "")


def _cache(name: str, manifest: dict[str, Any]) -> str:
    held = manifest["memory"][name]["kv"]
    full = max(held.values(), default=0)
    rows = [[_code(bucket), bar(size, full, _size(size), _size(size))] for bucket, size in held.items()]
    dtype = (manifest["models"][name]["kv"] or {}).get("dtype", "")
    return f"<h3>K/V cache {_e(dtype)}, at full context</h3>" + _table(["bucket", "bytes"], rows)


def _weights(weights: Sequence[dict[str, Any]], errors: Mapping[str, float]) -> str:
    """Formats counted, the error and the bits by layer, and a row for every weight."""
    if not weights:
        return ""
    bits = {row["name"]: stored_bits(row) for row in weights}
    blocks = ["<h3>Weights</h3>", _formats(weights)]
    if errors:
        blocks.append("<h4>relative error of the quantised weights</h4>" + by_layer(errors, "rms error"))
    if len({bits[name] for name in bits if ".layers." in f".{name}"}) > 1:
        blocks.append("<h4>bits per weight</h4>" + by_layer(bits, "bits"))
    worst = max(errors.values(), default=0.0)
    rows = [_weight(row, bits[row["name"]], errors.get(row["name"]), worst) for row in weights]
    head = ["weight", "shape", "format", "bits per weight", "error", "decided by"]
    state = " open" if len(rows) <= _FLAT else ""
    table = _table(head, rows)
    blocks.append(f"<details{state}><summary>all {len(rows)} weights</summary>{table}</details>")
    return "\n".join(blocks)


def _weight(row: Mapping[str, Any], bits: float, error: float | None, worst: float) -> list[str]:
    shown = "" if error is None else bar(error, worst, f"{error:.4f}", f"relative error {error:.4f}", track=False)
    return [
        _code(row["name"]),
        " × ".join(map(str, row["shape"])),
        _e(_format(row)),
        bar(bits, 16, f"{bits:.2f}", f"{bits:.2f} bits"),
        shown,
        f"<span class=quiet>{_e(row['source_line'])}</span>" if row.get("source_line") else "",
    ]


def _format(row: Mapping[str, Any]) -> str:
    made = WeightFormat.of_entry(row)
    return (row["dtype"] if made is None else made.describe()) + _stated(row, ", ")


def _formats(weights: Sequence[Mapping[str, Any]]) -> str:
    counted: dict[str, int] = {}
    for row in weights:
        key = _format(row)
        counted[key] = counted.get(key, 0) + _product(row["shape"])
    return stack(sorted(((name, float(count)) for name, count in counted.items()), key=lambda item: -item[1]))


def _mean_bits(entry: Mapping[str, Any]) -> float:
    """Over all weights; a tied head is one with its embedding."""
    rows = {row["name"]: row for row in entry["weights"]}
    if (entry.get("arch") or {}).get("tied", False):
        rows.pop("lm_head", None)
    sizes = {name: _product(row["shape"]) for name, row in rows.items()}
    return sum(stored_bits(row) * sizes[name] for name, row in rows.items()) / max(sum(sizes.values()), 1)


def _product(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def stored_bits(row: Mapping[str, Any]) -> float:
    """Bits per weight as stored, its share of scales and zero points included; older bundles do not state the bytes."""
    if row.get("bytes"):
        return 8 * row["bytes"] / max(_product(row["shape"]), 1)
    made = WeightFormat.of_entry(row)
    if made is None:
        return float("".join(filter(str.isdigit, row["dtype"])) or 32)
    outputs, inputs = row["shape"][0], _product(row["shape"][1:])
    return made.size(outputs, inputs) / (outputs * inputs)


def _rest(manifest: dict[str, Any]) -> str:
    libraries = [[_code(row["file"]), _e(row["engine"]), _e(row["why"])] for row in manifest["libraries"]]
    tools = ", ".join(f"{name} {version}" for name, version in manifest["tools"].items())
    shown = "<h2>Libraries to push</h2>" + _table(["file", "engine", "why"], libraries) if libraries else ""
    return shown + f"<h2>Made with</h2><p class=quiet>{_e(tools)}</p>"
