"""One judge for all: a model's next-token distribution on held-out windows beside the float model's, by ONNX Runtime.

perplexity   exp of the mean loss (compiler/oracle.py); ratio: over the float model's
divergence   mean KL(float | model) per position, in nats
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from common import HELDOUT, MODELS

if TYPE_CHECKING:
    from edgec.compiler.ir.module import Module

WINDOWS, WINDOW = 96, 256
_BATCH = 8


def judge(model: Module, reference: Module, ids: Sequence[int], windows: int = WINDOWS) -> dict[str, float]:
    """Perplexity of `model`, its ratio to that of `reference`, and the divergence, on the first windows of `ids`."""
    array = np.asarray(ids[: windows * WINDOW], np.int32).reshape(windows, WINDOW)
    loss, float_loss, divergence = [], [], []
    at = np.arange(WINDOW - 1)
    for batch in np.array_split(array, -(-windows // _BATCH)):
        for row, p, q in zip(batch, _logs(reference, batch), _logs(model, batch), strict=True):
            loss.append(-q[at, row[1:]].mean())
            float_loss.append(-p[at, row[1:]].mean())
            divergence.append((np.exp(p) * (p - q)).sum(-1).mean())
    made, base = float(np.exp(np.mean(loss))), float(np.exp(np.mean(float_loss)))
    return {"perplexity": made, "ratio": made / base, "divergence": float(np.mean(divergence))}


def token_ids(model: str) -> list[int]:
    """The held-out text by an example model's tokenizer."""
    from edgec.compiler.oracle import text_perplexity as evaluate

    return evaluate.token_ids(MODELS / model, HELDOUT.read_text())


def _logs(module: Module, batch: np.ndarray) -> Iterator[np.ndarray]:
    """log softmax [S, V] of each text of the batch, one at a time."""
    from edgec.compiler.oracle.oracle import DecoderOracle

    for logits in DecoderOracle(module).batch_logits(batch):
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        yield shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
