"""What the runner asks of a model: tokens in, logits out, and a cache whose end can be cut off.

forward(ids[S]) -> logits[S, V] float32     row i scores the token that follows ids[i]; S positions join the cache
rollback(n)                                 the cache holds its first n positions only
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..emit.engine_protocols import LanguageModel

if TYPE_CHECKING:
    import numpy as np

PIECE = 256  # prompt tokens per call for models that do not say how they like to be fed


def feed(model: LanguageModel, ids: Sequence[int]) -> np.ndarray:
    """Put `ids` into the cache piece by piece (no logits of a whole prompt at once); the scores after the last."""
    piece = getattr(model, "piece", PIECE)
    for start in range(0, len(ids) - piece, piece):
        model.forward(ids[start : start + piece])
    rest = (len(ids) - 1) // piece * piece
    return model.forward(ids[rest:])[-1]


def fits(model: LanguageModel, count: int) -> bool:
    """Whether `count` more tokens go into the cache; a chain of buckets can end before its context does."""
    own = getattr(model, "fits", None)
    return own(count) if own else model.length + count <= model.context
