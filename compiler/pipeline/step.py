"""One line of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from ..diagnostics.diagnostic import Span
from .demands import Demands
from .pass_interface import Pass


@dataclass(frozen=True)
class Step:
    """One line of a pipeline: a constructed pass and the names it is for (`on` None: all)."""

    pass_name: str
    pass_: Pass
    on: tuple[str, ...] | None
    except_: tuple[str, ...]
    span: Span

    @property
    def demands(self) -> Demands:
        """What this line asks of the compile and of the target."""
        return self.pass_.demands()
