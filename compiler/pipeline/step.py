"""One line of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from ..diagnostics.diagnostic import Span
from .pass_interface import Pass


@dataclass(frozen=True)
class Step:
    """One line of a pipeline: a constructed pass and the names it is for (`on` None: all)."""

    pass_name: str
    pass_: Pass
    on: tuple[str, ...] | None
    except_: tuple[str, ...]
    span: Span
