"""The report's words as HTML: text of inputs made visible and cut, code, tables, sections."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from ..diagnostics.visible import shortened, visible

_LONGEST_NAME = 96  # characters of a name that are shown; the whole stands in its title


def escape(text: object, lines: bool = False) -> str:
    """Text as HTML, whole; what a reader would not see (control characters, bidirectional marks) shown as escapes."""
    return html.escape(visible(str(text), lines=lines))


def code(text: object) -> str:
    """A name or a line of a plan; a long one is cut in the middle."""
    whole = str(text)
    if len(whole) <= _LONGEST_NAME:
        return f"<code>{escape(whole)}</code>"
    half = _LONGEST_NAME // 2
    return f'<code title="{escape(whole[:1000])}">{escape(whole[:half])} … {escape(whole[-half:])}</code>'


def prose(text: str) -> str:
    """A sentence of ours: names in backticks become code."""
    return "".join(
        code(piece) if index % 2 else escape(piece) for index, piece in enumerate(shortened(text).split("`"))
    )


def size(count: float) -> str:
    """Bytes in the unit that reads best."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.{2 if count < 100 * scale else 1}f} {unit}"
    return f"{count:.0f} B"


def written(value: object) -> str:
    """A value as a plan writes it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Sequence[int] = (),
    wraps: int | None = None,
) -> str:
    """Cells are HTML; the columns in `numbers` are right-aligned, those that are empty throughout are left out.

    What stands in the column `wraps` breaks into lines. `caption` is for those who hear the page.
    """
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    if not kept:
        return ""

    def cell(index: int, content: str, first: bool) -> str:
        kinds = " ".join((["n"] if index in numbers else []) + (["wide"] if index == wraps else []))
        tag, scope = ("th", " scope=row") if first else ("td", "")
        return f"<{tag}{scope}{f' class={chr(34)}{kinds}{chr(34)}' if kinds else ''}>{content}</{tag}>"

    top = "".join(f"<th scope=col{' class=n' if i in numbers else ''}>{head[i]}</th>" for i in kept)
    lines = [f"<tr>{''.join(cell(i, row[i], i == kept[0]) for i in kept)}</tr>" for row in rows]
    said = f"<caption class=unseen>{escape(caption)}</caption>"
    body = "\n".join(lines)
    return f"<div class=scroll tabindex=0><table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def anchor(title: str) -> str:
    """A title as the address of its section."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def section(title: str, *content: str, address: str | None = None) -> str:
    """A part of the page under a heading; empty without content."""
    body = "\n".join(filter(None, content))
    return f"<section id={address or anchor(title)}><h2>{escape(title)}</h2>\n{body}</section>" if body else ""


def folded(title: str, content: str, opened: bool = False) -> str:
    """Content that opens at its title (HTML), without a script; empty without content."""
    state = " open" if opened else ""
    return f"<details{state}><summary>{title}</summary>{content}</details>" if content else ""


def items(notes: Sequence[str]) -> str:
    """Sentences as a list."""
    return "<ul>" + "".join(f"<li>{prose(note)}</li>" for note in notes) + "</ul>" if notes else ""
