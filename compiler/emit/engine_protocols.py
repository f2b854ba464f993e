"""What the runner asks of an engine: one graph of a part, or a whole decoder with its K/V cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class CallTime:
    """How long a call takes on this machine. `engine` in words; `measured`: as it was before, else estimated."""

    seconds: float
    engine: str
    measured: bool


class LanguageModel(Protocol):
    """An engine's decoder with its K/V cache. `length`: positions in the cache; `context`: how many it can hold."""

    @property
    def vocab(self) -> int:
        """Width of the logits."""
        ...

    @property
    def context(self) -> int:
        """Tokens the K/V cache holds."""
        ...

    @property
    def length(self) -> int:
        """Tokens in the cache now."""
        ...

    def forward(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), vocab], float32, of the next `ids`, which join the cache."""
        ...

    def rollback(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        ...

    def reset(self) -> None:
        """Empty the cache."""
        ...

    def close(self) -> None:
        """Free the engine; the model cannot be used any more."""
        ...


class GraphSession(Protocol):
    """One graph of one part, ready to run on this machine."""

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; `feeds` has every input of the graph by name, in the shapes of the manifest."""
        ...

    def close(self) -> None:
        """Free the engine; the session cannot be used any more."""
        ...
