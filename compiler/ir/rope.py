"""Rotary position embedding as a config describes it, down to the inverse frequencies.

f[i] = theta^(-2i/D),  i < D/2                       default
f[i] / factor                                        linear
f[i] / factor where its wavelength exceeds L/low,    llama3 (L: the original context)
f[i] where it is below L/high, interpolated between
blend of f[i] and f[i]/factor over a ramp of i       yarn (arXiv 2309.00071); cos and sin times attention_factor
f[i] / factors[i]                                    factors: one for each frequency, as a GGUF stores them
f[i] / factors[i]                                    longrope (arXiv 2402.13753): its short factors, up to the original
                                                     context; cos and sin times attention_factor
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RopeKind = Literal["default", "linear", "llama3", "yarn", "longrope", "factors"]
KINDS: tuple[RopeKind, ...] = ("default", "linear", "llama3", "yarn", "longrope")  # those a config.json can name


@dataclass(frozen=True)
class RopeSpec:
    """The parameters of one kind; those a kind does not use keep their defaults."""

    theta: float = 10_000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    attention_factor: float = 1.0  # multiplies cos and sin
    original_positions: int = 0  # the context before scaling
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    factors: tuple[float, ...] = ()

    def inverse_frequencies(self, head_dim: int) -> list[float]:
        """f[i] for i < head_dim/2."""
        plain = [self.theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
        if self.kind == "linear":
            return [f / self.factor for f in plain]
        if self.kind == "llama3":
            return [self._llama3(f) for f in plain]
        if self.kind == "yarn":
            return self._yarn(plain, head_dim)
        if self.kind in ("factors", "longrope"):
            return [f / factor for f, factor in zip(plain, self.factors, strict=True)]
        return plain

    def _llama3(self, f: float) -> float:
        turns = self.original_positions * f / (2 * math.pi)  # of the original context
        low, high = self.low_frequency_factor, self.high_frequency_factor
        if turns < low:
            return f / self.factor
        if turns > high:
            return f
        smooth = (turns - low) / (high - low)
        return (1 - smooth) * f / self.factor + smooth * f

    def _yarn(self, plain: list[float], head_dim: int) -> list[float]:
        low, high = self._yarn_dimension(self.beta_fast, head_dim), self._yarn_dimension(self.beta_slow, head_dim)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        width = high - low if high != low else 0.001
        ramp = [min(max((i - low) / width, 0.0), 1.0) for i in range(len(plain))]
        return [f / self.factor * r + f * (1 - r) for f, r in zip(plain, ramp, strict=True)]

    def _yarn_dimension(self, turns: float, head_dim: int) -> float:
        """The dimension whose frequency turns `turns` times within the original context."""
        return head_dim * math.log(self.original_positions / (turns * 2 * math.pi)) / (2 * math.log(self.theta))
