"""Perplexity of a language model as it runs: exp(mean over windows of -log softmax(logits[i])[ids[i+1]]).

Each window of 256 tokens is read by an empty model, in the pieces its buckets take.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..diagnostics.diagnostic import fail
from ..emit.engine_protocols import LanguageModel
from .language_model import PIECE

WINDOW = 256


def perplexity(model: LanguageModel, ids: Sequence[int], windows: int) -> float:
    """Over the first `windows` windows of `ids`, which fill at least one."""
    count = min(windows, len(ids) // WINDOW)
    if count < 1:
        fail("E0931", f"the text has {len(ids)} tokens, one window has {WINDOW}", help="give a longer text")
    if model.context < WINDOW:
        fail("E0932", f"perplexity is over windows of {WINDOW} tokens, the model's context is {model.context}")
    return float(np.exp(np.mean([loss(model, ids[at * WINDOW : (at + 1) * WINDOW]) for at in range(count)])))


def loss(model: LanguageModel, ids: Sequence[int]) -> float:
    """The mean loss of one window: every token but the first is predicted."""
    model.reset()
    piece = getattr(model, "piece", PIECE)
    total = 0.0
    for start in range(0, len(ids), piece):
        part = ids[start : start + piece]
        logits = model.forward(part).astype(np.float64)
        following = np.asarray(ids[start + 1 : start + 1 + len(part)], np.int64)
        logits = logits[: len(following)]
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, following[:, None], axis=-1)[:, 0]
        total += float((np.log(np.exp(logits).sum(axis=-1)) - chosen).sum())
    return total / (len(ids) - 1)
