"""What the solvers need beside edgec's own requirements: torch, which is an extra because it is large."""

from __future__ import annotations

from importlib.util import find_spec

from ...compiler.diagnostics.diagnostic import fail
from ...compiler.pipeline.pass_interface import Scope


def needs_torch(setting: str, scope: Scope) -> None:
    """Fail at the plan's line if torch is not installed."""
    if find_spec("torch") is None:
        fail(
            "E0461",
            f"`{setting}` computes with torch, which is not installed",
            scope.origin,
            help="`pip install 'edgec[solve]'`, or use `method = rtn`",
        )
