"""The plan's `calibration` block: which text, and how many windows are cut from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..diagnostics.diagnostic import Span


@dataclass(frozen=True)
class Calibration:
    text: tuple[Path, ...]
    samples: int
    length: int
    seed: int
    span: Span
