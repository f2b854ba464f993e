"""`edgec run --timeline`: a page of when parts ran, and what cannot be drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edgec.compiler.commands.run import _write_timeline
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.report.timeline_page import write_timeline
from edgec.compiler.runtime.timeline import Span, Timeline

SPANS = [Span("npu", "m.npu0", 5.0, 5.01), Span("cpu", "m.cpu1", 5.002, 5.008), Span("npu", "m.npu0", 5.012, 5.02)]
RESULT = {"tokens": [1, 2], "prompt_tokens": 3, "lanes": Timeline(SPANS).lanes()}


def rows() -> list[dict]:
    return [{"lane": s.lane, "part": s.part, "start": s.start, "end": s.end} for s in SPANS]


def test_the_page_has_a_row_for_each_lane(tmp_path: Path) -> None:
    _write_timeline(tmp_path / "t.html", RESULT, rows())
    text = (tmp_path / "t.html").read_text()
    assert text.count("<rect class=lane") == 2
    assert text.count("<title>m.npu0") == 2
    assert "m.cpu1: 2.00 to 8.00 ms" in text
    assert "100.0%" in text  # of the CPU's time beside the NPU
    boxes = [piece.split(" ")[0] for piece in text.split("<rect class=s0 x=")[1:]]
    assert [float(x) for x in boxes] == [pytest.approx(70 + 1040 * 2 / 20)]


def test_names_are_escaped(tmp_path: Path) -> None:
    write_timeline(tmp_path / "t.html", "<b>", [{**rows()[0], "part": "<script>"}], {})
    assert "<script>" not in (tmp_path / "t.html").read_text()


def test_what_cannot_be_drawn(tmp_path: Path, golden_error: Callable[..., None]) -> None:
    with pytest.raises(EdgecError) as raised:
        _write_timeline(tmp_path / "none" / "t.html", RESULT, rows())
    golden_error("E0963", raised.value, hide={str(tmp_path): "TMP"})
    with pytest.raises(EdgecError) as raised:
        _write_timeline(tmp_path / "t.html", RESULT, [])
    assert "runs as a whole" in str(raised.value)
