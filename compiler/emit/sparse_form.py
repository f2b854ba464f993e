"""What an engine makes of a pattern of zeros: what a manifest, a report and `inspect` say that it buys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SparseForm:
    """How the sparse weights of one part lie in its file, and what that does to a token.

    form      `dense`, or the engine's word for a form of its own, in which it reads them too
    speed     `none`: as fast as a dense weight; `unknown`: less is read, and no phone was measured
    why       one sentence
    measured  bytes of the compiled file without and with the form, where both were made
    """

    form: str
    speed: Literal["none", "unknown"]
    why: str
    measured: tuple[int, int] | None = None


def expanded(engine: str) -> SparseForm:
    """Of an engine without a form for zeros."""
    return SparseForm("dense", "none", f"{engine} reads and multiplies the zeros like any other numbers")
