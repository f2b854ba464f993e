"""The bundle's report: what was done to each model, layer by layer, as one self-contained HTML page.

    summary  what it is and whether it holds      model    settings, parts, weights of each model
    markup   words as HTML                        plots, lanes   the drawings

Plain HTML and inline SVG, no script, nothing from outside. The same compile gives the same bytes: no times, no paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .markup import anchor, code, escape, folded, items, prose, section, table
from .model_section import model_section
from .summary import header, requirements, settings, sizes

if TYPE_CHECKING:
    from ..compile.compile_model import CompiledModel
    from ..compile.requirements import Measured
    from ..plan.plan import Plan

_WHEN = (
    "<p class=quiet>When each action of the compile ran, and the memory they took: <a href='actions.html'>timeline</a> "
    "(of compiles from the command line).</p>"
)
_HEADING = re.compile(r"<section id=(\S+)><h2>(.*?)</h2>")


def write_report(
    path: Path, plan: Plan, models: Sequence[CompiledModel], measured: Measured, manifest: dict[str, Any]
) -> None:
    """Write the page for one compile to `path`; the files that it counts lie in the folders beside it."""
    directory = path.parent
    total = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file() and file != path)
    sections = [requirements(measured), _warnings(manifest["warnings"]), sizes(manifest, directory, total)]
    sections += [model_section(model, plan, manifest, address=f"model-{anchor(model.name)}") for model in models]
    sections += [_plan(plan), _rest(manifest)]
    body = "\n".join(filter(None, sections))
    links = "".join(f"<li><a href='#{address}'>{title}</a></li>" for address, title in _HEADING.findall(body))
    broken = any(not row["holds"] for row in measured.requires)
    title = f"{plan.name}: {'rejected, ' if broken else ''}edgec report"
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{style_sheet()}</style>\n{header(plan, measured, manifest, total)}\n"
        f"<nav aria-label='on this page'><ul>{links}</ul></nav>\n<main>\n{body}\n</main>"
    )
    path.write_text(page + "\n</html>\n", encoding="utf-8")


def style_sheet() -> str:
    """The style of every page of edgec's."""
    return Path(__file__).with_name("report.css").read_text(encoding="utf-8")


def _warnings(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for row in found:
        help = "".join(f"<p class=quiet>{prose(line)}</p>" for line in (row["help"] or "").splitlines())
        reason = row.get("accepted")
        said = f"<p class=accepted>accepted in the plan: {escape(reason)}</p>" if reason else ""
        kind = "accepted" if reason else "open"
        text = f"<p>{code(row['code'])} {prose(row['message'])}</p>"
        rows.append(f"<li class={kind}>{text}{said or help}</li>")
    return section("Warnings", f"<ul class=warnings>{''.join(rows)}</ul>" if rows else "")


def _plan(plan: Plan) -> str:
    """The values of the lets and the text of every file of the plan."""
    names = [name for name in plan.sources if not name.startswith("-D ")]
    texts = [
        folded(escape(Path(name).name), f"<pre tabindex=0>{escape(plan.sources[name], lines=True)}</pre>", number == 0)
        for number, name in enumerate(names)
    ]
    return section("Plan", settings(plan), *texts)


def _rest(manifest: Mapping[str, Any]) -> str:
    libraries = [[code(row["file"]), escape(row["engine"]), escape(row["why"])] for row in manifest["libraries"]]
    tools = ", ".join(f"{name} {version}" for name, version in manifest["tools"].items())
    shown = table("libraries", ["library to push", "engine", "why"], libraries)
    return section("Notes", items(manifest["notes"])) + section(
        "Made with", f"<p class=quiet>{escape(tools)}</p>", _WHEN, shown
    )
