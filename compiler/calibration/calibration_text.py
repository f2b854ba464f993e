"""The plan's `calibration` block: which text, and how many windows are cut from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..diagnostics.diagnostic import Span


@dataclass(frozen=True)
class Calibration:
    """A plan's `calibration` block: text files, number of windows, tokens of each window, random seed."""

    text: tuple[Path, ...]
    samples: int
    length: int
    seed: int
    span: Span
