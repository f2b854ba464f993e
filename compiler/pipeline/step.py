"""One line of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    settings: Mapping[str, Span] = field(default_factory=dict, compare=False)  # where the plan wrote each argument

    def place(self, *keys: str) -> Span:
        """Where the first of these arguments is written; the whole line where none is."""
        return next((self.settings[key] for key in keys if key in self.settings), self.span)

    @property
    def demands(self) -> Demands:
        """What this line asks of the compile and of the target."""
        return self.pass_.demands()
