"""What one call of a model has to read and compute, part by part.

    bytes = weights + 2 * layers * kv_width * C * cache_bytes          C positions, of which T are new
    flops = 2 * weights * T + 4 * layers * heads_width * T * C

A static graph reads its whole cache whatever is in it. An embedding reads T of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

CACHE_BYTES = {"uint8": 1.0, "uint4": 0.5625}  # of a value, by the type of a K/V cache; two for each 32 of 4 bits


@dataclass(frozen=True)
class PartWork:
    """What a part holds. `macs`: multiplications a token; `row`: bytes of the embeddings that a token reads."""

    name: str
    device: str  # "cpu" | "npu"
    weights: float  # bytes of what every call reads whole
    macs: float
    layers: int = 0  # of attention
    kv_width: int = 0  # K/V heads x head_dim
    heads_width: int = 0
    cache_bytes: float = 2.0  # of one value
    row: float = 0.0
    tables: float = 0.0  # bytes of the embeddings whole
    idle: float = 0.0  # bytes of the weights that a token does not need: those of channels which its inputs leave out

    def bytes_read(self, tokens: int, context: int) -> float:
        """Weights, cache and embedding rows of a call of `tokens` new positions within `context`."""
        return self.weights + self.cache(context) + self.row * tokens

    def cache(self, context: int) -> float:
        """Bytes of keys and values at `context` positions."""
        return 2.0 * self.layers * self.kv_width * context * self.cache_bytes

    def flops(self, tokens: int, context: int) -> float:
        """Additions and multiplications of a call."""
        return 2.0 * self.macs * tokens + 4.0 * self.layers * self.heads_width * tokens * context

    def on(self, device: str) -> PartWork:
        """The same work on another device."""
        return replace(self, device=device)


@dataclass(frozen=True)
class ModelWork:
    """The parts of a model in the order they run. `context`: what its cache holds at most."""

    name: str
    parts: tuple[PartWork, ...]
    context: int

    @property
    def stored(self) -> float:
        """Bytes of all weights; a table that is also a head counts twice where both are stored."""
        return sum(part.weights + part.tables for part in self.parts)

    def bytes_read(self, tokens: int, context: int) -> float:
        """Bytes that a call reads."""
        return sum(part.bytes_read(tokens, context) for part in self.parts)

    def bytes_per_token(self) -> float:
        """Bytes that decoding one token reads at the full context."""
        return self.bytes_read(1, self.context)

    def active_bytes_per_token(self) -> float:
        """The same for a runtime that reads no weights of channels which are left out."""
        return self.bytes_per_token() - sum(part.idle for part in self.parts)

    def flops_per_token(self) -> float:
        """Operations of decoding one token at the full context."""
        return sum(part.flops(1, self.context) for part in self.parts)

    def on(self, device: str) -> ModelWork:
        """The same model with every part on `device`."""
        return replace(self, parts=tuple(part.on(device) for part in self.parts))


def decoder_work(
    name: str, shape: Sequence[int], context: int, linear_bytes: float, head_bytes: float, cache_bytes: float
) -> ModelWork:
    """A decoder on the NPU from its shape alone: layers, hidden, heads' width, K/V width, intermediate, vocabulary."""
    layers, hidden, heads, kv, inner, vocabulary = shape
    linears = layers * (2 * hidden * heads + 2 * hidden * kv + 3 * hidden * inner)
    head = hidden * vocabulary
    part = PartWork(
        name,
        "npu",
        weights=linears * linear_bytes + head * head_bytes,
        macs=linears + head,
        layers=layers,
        kv_width=kv,
        heads_width=heads,
        cache_bytes=cache_bytes,
    )
    return ModelWork(name, (part,), context)
