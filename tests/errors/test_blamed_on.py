"""Errors that name no place in the plan point at the line being compiled."""

from __future__ import annotations

import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError, Span, blamed_on, fail

LINE, OWN = Span("plan.edge", 3, 1, 3, 9), Span("plan.edge", 7, 1, 7, 9)


@pytest.mark.parametrize(("own", "line", "shown"), [(None, LINE, LINE), (OWN, LINE, OWN), (None, None, None)])
def test_the_line_is_given_only_where_none_is_named(own: Span | None, line: Span | None, shown: Span | None) -> None:
    with pytest.raises(EngineError) as caught, blamed_on(line):
        fail("E0801", "numbers differ", own, kind=EngineError)
    at = caught.value.diagnostics[0].at
    assert (at.span if at else None) == shown
