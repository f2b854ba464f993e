"""What the runner asks of an engine: one graph of a part, or a whole decoder with its K/V cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np


class LanguageModel(Protocol):
    """An engine's decoder with its K/V cache. `length`: positions in the cache; `context`: how many it can hold."""

    @property
    def vocab(self) -> int: ...

    @property
    def context(self) -> int: ...

    @property
    def length(self) -> int: ...

    def forward(self, ids: Sequence[int]) -> np.ndarray: ...

    def rollback(self, length: int) -> None: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


class GraphSession(Protocol):
    """One graph of one part, ready to run on this machine."""

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def close(self) -> None: ...
