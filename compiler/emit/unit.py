"""What of an emission can be made apart, by any process: an engine's compile of some parts for one chip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """One compile: the names of its parts, the chip it is for, how many graphs it holds."""

    parts: tuple[str, ...]
    chip: str
    graphs: int
