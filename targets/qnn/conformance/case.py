"""One case of the conformance run: a lowering, a shape, and the graph that is run for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .one_op_graphs import Made

FEW_TOKENS = (1, 4, 16, 128)


@dataclass(frozen=True)
class Case:
    """`make()` gives the graph and its feeds; `raw` graphs are compiled as they are."""

    lowering: str
    shape: tuple[tuple[str, int | str | bool], ...]
    make: Callable[[], Made]
    raw: bool = False

    @property
    def name(self) -> str:
        return " ".join([self.lowering, *(f"{key}={value}" for key, value in self.shape)])
