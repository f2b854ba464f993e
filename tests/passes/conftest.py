"""Steps as a plan's checker makes them, and the two small models of the examples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from edgec.compiler.diagnostics.diagnostic import Span
from edgec.compiler.pipeline.pass_interface import Pass
from edgec.compiler.pipeline.step import Step

SOURCES = {"plan.edge": "\n".join(["pipeline cpu {", *(f"  step_{n} ()" for n in range(1, 9)), "}"])}


@pytest.fixture
def steps() -> Callable[..., list[Step]]:
    """steps(pass, (pass, on), (pass, on, except_)): plan lines 2, 3, ... of `plan.edge`."""

    def make(*entries: Pass | tuple) -> list[Step]:
        made = []
        for line, entry in enumerate(entries, start=2):
            pass_, on, except_ = (*entry, None, ())[:3] if isinstance(entry, tuple) else (entry, None, ())
            if isinstance(entry, tuple) and len(entry) == 2:
                except_ = ()
            span = Span("plan.edge", line, 3, line, 9)
            made.append(Step(pass_.name, pass_, on, except_, span))
        return made

    return make


@pytest.fixture
def plan_text() -> dict[str, str]:
    """The text the spans of `steps` point into."""
    return SOURCES
