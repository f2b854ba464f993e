"""From logits to a distribution, and from distributions to tokens.

    p = softmax(logits / temperature), cut to the top_k largest, then to the smallest set whose mass reaches top_p

Speculation stays lossless (Leviathan et al. 2023, arXiv 2211.17192): a draft x ~ q is accepted with probability
min(1, p(x) / q(x)), otherwise the token is drawn from max(0, p - q), normalised; then it is distributed as p.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..diagnostics.diagnostic import fail


@dataclass(frozen=True)
class Sampling:
    """temperature 0: greedy. top_k 0: no limit."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            fail("E0919", f"temperature {self.temperature:g} is not a number of at least 0")
        if not 0 < self.top_p <= 1:
            fail("E0919", f"top-p {self.top_p:g} is not above 0 and at most 1")
        if self.top_k < 0:
            fail("E0919", f"top-k {self.top_k} is below 0", help="0 sets no limit")

    @property
    def greedy(self) -> bool:
        """True if the temperature is 0: the most likely token is always taken."""
        return self.temperature == 0

    def distribution(self, logits: np.ndarray) -> np.ndarray:
        """p[V] float64 of one row of logits; greedy puts everything on the first of the largest."""
        if self.greedy:
            p = np.zeros(logits.shape, np.float64)
            p[int(np.argmax(logits))] = 1.0
            return p
        scaled = logits.astype(np.float64)
        scaled = (scaled - scaled.max()) / self.temperature  # first the maximum: a tiny temperature must not overflow
        p = np.exp(scaled)
        order = np.argsort(-p, kind="stable")
        if 0 < self.top_k < len(p):
            p[order[self.top_k :]] = 0.0
        p /= p.sum()
        before = np.cumsum(p[order]) - p[order]  # the mass of what is likelier: the token that reaches top_p stays
        p[order[before >= self.top_p]] = 0.0
        return p / p.sum()


def draw(p: np.ndarray, random: np.random.Generator) -> int:
    """A token distributed as `p`; a certain one uses no randomness."""
    certain = int(np.argmax(p))
    return certain if p[certain] == 1.0 else int(random.choice(len(p), p=p))


def rest_after(token: int, p: np.ndarray, q: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    """None: the draft `token` ~ q stands; otherwise the distribution of the token that takes its place.

    Another draft may be tried against that distribution: tokens stay distributed as p (Miao et al. 2023, SpecInfer,
    arXiv 2305.09781).
    """
    p, q = _same_length(p, q)
    rest = np.maximum(p - q, 0.0)
    if p[token] >= q[token] or not rest.any() or random.random() * q[token] < p[token]:
        return None
    return rest / rest.sum()


def certain(token: int, vocab: int) -> np.ndarray:
    """The distribution of a source that proposes nothing but `token`: it stands with the target's probability of it."""
    made = np.zeros(max(vocab, token + 1))
    made[token] = 1.0
    return made


def _same_length(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vocabularies of one tokenizer may be padded to different lengths."""
    size = max(len(p), len(q))
    return np.pad(p, (0, size - len(p))), np.pad(q, (0, size - len(q)))
