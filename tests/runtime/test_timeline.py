"""How much of a lane ran beside another: pieces of time, put together."""

from __future__ import annotations

import pytest
from edgec.compiler.runtime.timeline import Span, Timeline
from hypothesis import given
from hypothesis import strategies as st


def test_what_ran_beside() -> None:
    timeline = Timeline([Span("npu", "a", 0, 10), Span("cpu", "b", 8, 12), Span("npu", "c", 11, 20)])
    lanes = timeline.lanes()
    assert lanes["npu"] == {"seconds": 19, "beside": pytest.approx(3 / 19)}
    assert lanes["cpu"] == {"seconds": 4, "beside": pytest.approx(3 / 4)}


def test_lanes_after_each_other() -> None:
    lanes = Timeline([Span("npu", "a", 0, 1), Span("cpu", "b", 1, 2)]).lanes()
    assert [lanes[name]["beside"] for name in ("npu", "cpu")] == [0, 0]
    assert Timeline().lanes() == {}


TIMES = st.tuples(st.sampled_from(["npu", "cpu", "gpu"]), st.integers(0, 40), st.integers(1, 9))


@given(st.lists(TIMES, min_size=1, max_size=12))
def test_against_counting_ticks(runs: list[tuple[str, int, int]]) -> None:
    timeline = Timeline([Span(lane, str(i), start, start + length) for i, (lane, start, length) in enumerate(runs)])
    busy = {name: {t for lane, a, n in runs if lane == name for t in range(a, a + n)} for name, _, _ in runs}
    for name, facts in timeline.lanes().items():
        others = set().union(*(ticks for lane, ticks in busy.items() if lane != name))
        assert facts["seconds"] == len(busy[name])
        assert facts["beside"] == pytest.approx(len(busy[name] & others) / len(busy[name]))


def test_the_clock() -> None:
    timeline = Timeline()
    with timeline.running("cpu", "x"):
        pass
    (span,) = timeline.spans
    assert (span.lane, span.part) == ("cpu", "x")
    assert span.end >= span.start
