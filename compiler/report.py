"""The bundle's report: what was done to each model, layer by layer, as one self-contained HTML page.

Tables and inline SVG, no script and nothing from outside. The same compile gives the same bytes: no times, no paths.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .driver import CompiledModel, Measured
    from .plan import Plan


def write_report(
    path: Path, plan: Plan, models: Sequence[CompiledModel], measured: Measured, manifest: dict[str, Any]
) -> None:
    """Write the page for one compile to `path`."""
    device = plan.devices[0]
    chip = device.marketing + (f" ({device.sm}, HTP {device.arch})" if device.arch else "")
    body = [f"<h1>{_e(plan.name)}</h1>", f"<p class=quiet>for {_e(chip)}</p>"]
    body.append(_requires(measured))
    body.append(_overview(models, measured, manifest))
    for model in models:
        body.append(_model(model, manifest))
    tools = ", ".join(f"{name} {version}" for name, version in manifest["tools"].items())
    body.append(f"<h2>Made with</h2><p class=quiet>{_e(tools)}</p>")
    title, style = _e(plan.name), Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title}: edgec report</title><style>{style}</style>\n" + "\n".join(body) + "\n</html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _e(text: object) -> str:
    return html.escape(str(text))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Cells are HTML; the columns in `numbers` are right-aligned."""
    if not rows:
        return ""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=n' if i in numbers else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    lines = [f"<tr>{cells('th', head)}</tr>", *(f"<tr>{cells('td', row)}</tr>" for row in rows)]
    return "<table>" + "\n".join(lines) + "</table>"


def _requires(measured: Measured) -> str:
    rows = [
        [
            f"<code>{_e(row['line'])}</code>",
            f"{row['measured']:.6g}",
            "<span class=good>holds</span>" if row["holds"] else "<span class=bad>broken</span>",
        ]
        for row in measured.requires
    ]
    return "<h2>Requirements</h2>" + _table(["line", "measured", ""], rows, numbers=[1]) if rows else ""


def _overview(models: Sequence[CompiledModel], measured: Measured, manifest: dict[str, Any]) -> str:
    rows = []
    for model in models:
        entry = manifest["models"][model.name]
        value, base = measured.perplexity.get(model.name), measured.baseline.get(model.name)
        quality = f"{value:.4f} ({value / base:.4f} of float)" if value and base else "not measured"
        rows.append(
            [
                _e(model.name),
                _e(entry["role"]),
                f"{_e(model.deploy.target)} on {_e(model.deploy.device)}",
                _size(entry["bytes"]),
                _e(quality),
            ]
        )
    return "<h2>Models</h2>" + _table(["model", "role", "runs as", "bytes", "perplexity"], rows, numbers=[3])


def _size(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"


def _model(model: CompiledModel, manifest: dict[str, Any]) -> str:
    entry = manifest["models"][model.name]
    blocks = [f"<h2>{_e(model.name)}</h2>", _steps(model), _notes(model), _parts(model, manifest)]
    if entry["kind"] == "decoder":
        kv = [[_e(name), _size(count)] for name, count in manifest["memory"][model.name]["kv"].items()]
        blocks.append("<h3>K/V cache</h3>" + _table(["bucket", "bytes"], kv, numbers=[1]))
    blocks.append(_weights(entry["weights"]))
    return "\n".join(blocks)


def _steps(model: CompiledModel) -> str:
    rows = []
    for step in model.steps:
        skips = "".join(f"<br><code>{_e(skip.node)}</code>: {_e(skip.reason)}" for skip in step.skips[:50])
        more = f"<details><summary>{len(step.skips)} left alone</summary>{skips}</details>" if step.skips else ""
        rows.append([f"<code>{_e(step.pass_name)}</code>", str(step.changes), more])
    return "<h3>Passes</h3>" + _table(["pass", "changes", ""], rows, numbers=[1]) if rows else ""


def _notes(model: CompiledModel) -> str:
    notes = [note for step in model.steps for note in step.notes] + model.emission.notes
    return "<ul>" + "".join(f"<li>{_e(note)}</li>" for note in notes) + "</ul>" if notes else ""


def _parts(model: CompiledModel, manifest: dict[str, Any]) -> str:
    rows = []
    for name in model.emission.parts:
        part = manifest["parts"][name]
        graphs = ", ".join(part["graphs"])
        rows.append([_e(name), _e(part["device"]), _e(part["target"]), f"<code>{_e(part['file'])}</code>", _e(graphs)])
    return "<h3>Parts</h3>" + _table(["part", "device", "target", "file", "graphs"], rows)


def _weights(weights: Sequence[dict[str, Any]]) -> str:
    """A table of every weight's format, with its stored bits as a bar of the float16 it came from."""
    rows = []
    for row in weights:
        grain = "" if row["symmetric"] is None else "per channel" if row["block"] is None else f"block {row['block']}"
        asymmetric = " with zero points" if row["symmetric"] is False else ""
        line = row.get("source_line")
        rows.append(
            [
                f"<code>{_e(row['name'])}</code>",
                " x ".join(map(str, row["shape"])),
                _e(row["dtype"]),
                _e(grain + asymmetric),
                _bar(_bits(row)),
                f"<span class=quiet>{_e(line)}</span>" if line else "",
            ]
        )
    head = ["weight", "shape", "type", "scales", "bits per weight", "decided by"]
    return f"<details open><summary>{len(rows)} weights</summary>{_table(head, rows)}</details>"


def _bits(row: dict[str, Any]) -> float:
    """Bits per weight as stored: the integer, its share of a float16 scale and of a zero point."""
    width = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int2": 2, "uint2": 2}.get(row["dtype"], 16)
    if row["symmetric"] is None:
        return float(width)
    shared = row["block"] or row["shape"][-1]
    return width + (16 + (0 if row["symmetric"] else width)) / shared


def _bar(bits: float) -> str:
    length = min(bits, 16) / 16 * 120
    return (
        f"<svg width=175 height=14 role=img aria-label='{bits:.2f} bits'><rect class=rest width=120 height=10 y=2 />"
        f"<rect class=bar width={length:.1f} height=10 y=2 /><text x=126 y=11>{bits:.2f}</text></svg>"
    )
