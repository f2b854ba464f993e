"""The report inside a notebook: a page of its own in a frame, so that neither's style touches the other."""

from __future__ import annotations

from html import escape
from pathlib import Path


def framed(report: Path, height: int = 640) -> str:
    """HTML that shows the page at `report`, `height` pixels high; the page is copied into it."""
    page = escape(report.read_text(encoding="utf-8"), quote=True)
    return f'<iframe srcdoc="{page}" style="width:100%;height:{height}px;border:0" title="edgec report"></iframe>'
