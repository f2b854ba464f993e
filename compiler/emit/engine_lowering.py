"""What a target's options say of an engine's own lowering of general graphs: `lowering` and `fallback`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from .capabilities import Refusal

LOWERINGS = ("auto", "edgec", "engine")
FALLBACKS = ("cpu", "none")


def left_to_the_engine(options: Any, refused: Sequence[Refusal]) -> bool:
    """Whether the engine lowers a general graph of which edgec's rules refuse what no proof settles."""
    if options.lowering == "auto":
        return any(not one.unproven for one in refused)
    return options.lowering == "engine"


def by_rules(options: Any) -> Any:
    """The options of a target with edgec's own rules alone."""
    return dataclasses.replace(options, lowering="edgec") if hasattr(options, "lowering") else options


def falls_back(options: Any) -> bool:
    """Whether nodes that an engine is not to have may run elsewhere."""
    return getattr(options, "fallback", "none") == "cpu"
