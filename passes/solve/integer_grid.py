"""Grids of integers: w = (q - zero) * scale, a scale (and zero) per row and block, and the search for good ones.

    scale [N, K/B] float32 with values float16 can hold     zero [N, K/B] integers, None when symmetric
    symmetric: q in -2^(b-1) .. 2^(b-1)-1                    asymmetric: q, zero in 0 .. 2^b-1
    ternary: q in -1, 0, 1                                   one bit: q in -1, 1

A symmetric grid of two bits or more reaches one step further on one side. A scale below zero turns that side to where a
block needs it, so that all 2^b integers are of use and no zero point is stored.

The search tries scales between a part of the largest weight and a little more, and keeps per row and block the one of
the least e H e^T (H the block of the Hessian, [B, B]), of the least sum h e^2, or of the least sum |e|^p.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...compiler.ir.weight_format import TWO_LEVEL, Integers, WeightFormat

SMALLEST = 2.0**-24
COARSE, FINE = 12, 4  # scales that are tried for all rows, and around each row's best of these
_LOWEST, _HIGHEST = 0.35, 1.15  # of the scale that just reaches the largest weight
_LOWEST_OF_FEW = 0.1
_CHUNK = {"cpu": 1 << 16}  # elements of one candidate's error that are made at once: what a core's cache holds
_LARGE = 1 << 24  # the same on a GPU


def nearest_(x: torch.Tensor, integers: Integers) -> torch.Tensor:
    """`x` in place as the nearest of `integers`, which have no zero point."""
    low, high, step = integers
    if step == 1:
        return x.round_().clamp_(low, high)
    return x.sub_(low).div_(step).round_().mul_(step).add_(low).clamp_(low, high)


@dataclass(frozen=True)
class GridKind:
    """What grids are of: `block` inputs share a scale; `positive`: the scale may not lie below zero.

    `two_level`: scales are those of two_level_grid.py in the end.
    """

    bits: int
    block: int
    symmetric: bool
    positive: bool = False
    ternary: bool = False
    two_level: bool = False

    @property
    def integers(self) -> Integers:
        """The integers there are."""
        return WeightFormat(self.bits, self.block, self.symmetric, ternary=self.ternary).integers


def kind_of(format_: WeightFormat, k: int) -> GridKind:
    """The grids of a weight with `k` inputs.

    Eight bits gain nothing by a scale below zero, and what reaches as far on both sides is the same with one.
    """
    even = format_.symmetric and format_.integers.high == -format_.integers.low
    positive = format_.positive or format_.bits == 8 or even
    two_level = format_.scales == TWO_LEVEL
    return GridKind(format_.bits, format_.block or k, format_.symmetric, positive, format_.ternary, two_level)


@dataclass
class Grid:
    """The integers a weight [N, K] may take."""

    scale: torch.Tensor
    zero: torch.Tensor | None
    integers: Integers
    block: int

    def quantise(self, w: torch.Tensor) -> torch.Tensor:
        """Nearest integers, float32 [N, K]."""
        q = self.blocks(w) / self.scale[..., None]
        if self.zero is not None:
            q = q.round_() + self.zero[..., None]
        return nearest_(q, self.integers).reshape(w.shape)

    def value(self, q: torch.Tensor) -> torch.Tensor:
        """What the integers [N, K] stand for."""
        blocks = self.blocks(q)
        if self.zero is not None:
            blocks = blocks - self.zero[..., None]
        return (blocks * self.scale[..., None]).reshape(q.shape)

    def blocks(self, w: torch.Tensor) -> torch.Tensor:
        """[N, K] as [N, K/B, B]: one row of values per scale."""
        return w.reshape(len(w), -1, self.block)


@dataclass
class Columns:
    """A grid held column by column, for methods that choose one column of integers after the other.

    scale [K/B, N]     zero [K/B, N], None when symmetric     a column is [N]
    """

    scale: torch.Tensor
    zero: torch.Tensor | None
    integers: Integers
    block: int

    @classmethod
    def of(cls, grid: Grid) -> Columns:
        """The same grid, transposed."""
        return cls(_turned(grid.scale), None if grid.zero is None else _turned(grid.zero), grid.integers, grid.block)

    @classmethod
    def blank(cls, w: torch.Tensor, kind: GridKind) -> Columns:
        """For `w` [N, K], to be filled block by block."""
        scale = w.new_ones(w.shape[1] // kind.block, len(w))
        return cls(scale, None if kind.symmetric else torch.zeros_like(scale), kind.integers, kind.block)

    def grid(self) -> Grid:
        """The same grid row by row, as `Grid`."""
        return Grid(_turned(self.scale), None if self.zero is None else _turned(self.zero), self.integers, self.block)

    def nearest(self, w: torch.Tensor, group: int) -> torch.Tensor:
        """Integers of a column of block `group`."""
        q = w / self.scale[group]
        if self.zero is not None:
            q.round_().add_(self.zero[group])
        return nearest_(q, self.integers)

    def value(self, q: torch.Tensor, group: int) -> torch.Tensor:
        """What integers of that column stand for."""
        return (q if self.zero is None else q - self.zero[group]) * self.scale[group]


def _turned(x: torch.Tensor) -> torch.Tensor:
    return x.T.contiguous()


def half(scale: torch.Tensor) -> torch.Tensor:
    """Rounded to what float16 holds, and not zero."""
    size = scale.abs().half().float().clamp_min(SMALLEST)
    return torch.where(scale < 0, -size, size)


def fit(w: torch.Tensor, kind: GridKind, hessian: torch.Tensor | None = None) -> Grid:
    """The grid of `w` [N, K] by clip search, each block weighted by its part of `hessian` [K, K] if there is one."""
    scales, zeros = [], []
    for at in range(0, w.shape[1], kind.block):
        part = None if hessian is None else hessian[at : at + kind.block, at : at + kind.block]
        scale, zero = fit_block(w[:, at : at + kind.block], kind, part)
        scales.append(scale)
        zeros.append(zero)
    zero = None if kind.symmetric else torch.stack([z for z in zeros if z is not None], 1)
    return Grid(torch.stack(scales, 1), zero, kind.integers, kind.block)


def spanning(w: torch.Tensor, kind: GridKind) -> Grid:
    """The grid that reaches from each block's least to its largest weight, and zero."""
    blocks = w.reshape(len(w), -1, kind.block)
    least, largest = blocks.amin(-1).clamp_max(0), blocks.amax(-1).clamp_min(0)
    low, high, _ = kind.integers
    if kind.symmetric and kind.positive:
        return Grid(half(torch.maximum(largest, -least) / high), None, kind.integers, kind.block)
    if kind.symmetric:
        up, down = torch.maximum(largest / high, least / low), torch.maximum(least / -high, largest / -low)
        return Grid(half(torch.where(down < up, -down, up)), None, kind.integers, kind.block)
    scale = half((largest - least) / high)
    return Grid(scale, torch.round(-least / scale).clamp_(0, high), kind.integers, kind.block)


def fit_block(
    w: torch.Tensor, kind: GridKind, hessian: torch.Tensor | None = None, power: float = 2.0
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scale and zero [N] of one block's weights [N, B]; `hessian` [B, B], [B] or None."""
    rows = max(1, _CHUNK.get(w.device.type, _LARGE) // w.shape[1])
    made = [_fit_rows(w[at : at + rows], kind, hessian, power) for at in range(0, len(w), rows)]
    zero = None if kind.symmetric else torch.cat([z for _, z in made if z is not None])
    return torch.cat([scale for scale, _ in made]), zero


def _fit_rows(
    w: torch.Tensor, kind: GridKind, hessian: torch.Tensor | None, power: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A coarse search over all scales, then a fine one around each row's best."""
    few = kind.integers.reach == 1 and kind.symmetric and kind.positive  # -1 and 1 stand for means, not for the largest
    ends_of = (_HIGHEST if kind.symmetric else 1.0, _LOWEST_OF_FEW if few else _LOWEST)
    coarse = torch.linspace(*ends_of, COARSE)
    step = float(coarse[0] - coarse[1]) / (FINE + 1)
    best = _Best(w, kind, hessian, power)
    for part in coarse.tolist():
        for sign in (1.0,) if kind.positive or not kind.symmetric else (1.0, -1.0):
            best.try_(w.new_full((len(w),), sign * part))
    around = best.part.clone()
    for i in range(1, FINE // 2 + 1):
        for offset in (i * step, -i * step):
            best.try_(around + torch.sign(around) * offset)
    return best.scale, best.zero


class _Best:
    """The best grid so far of each row of `w` [R, B]: its scale as a `part` of the one that reaches every weight."""

    def __init__(self, w: torch.Tensor, kind: GridKind, hessian: torch.Tensor | None, power: float) -> None:
        self.w, self.kind, self.hessian, self.power = w, kind, hessian, power
        self.least, self.largest = w.amin(1).clamp_max(0), w.amax(1).clamp_min(0)
        self.error = w.new_full((len(w),), torch.inf)
        self.part, self.scale = torch.ones_like(self.error), torch.ones_like(self.error)
        self.zero = None if kind.symmetric else torch.zeros_like(self.error)

    def try_(self, part: torch.Tensor) -> None:
        """Keep `part` [R], below zero for a turned scale, where its grid errs less."""
        high = self.kind.integers.high
        if self.kind.symmetric:
            scale = half(torch.maximum(self.largest, -self.least) / high * part)
            self._keep(part, scale, None)
            return
        scale = half((self.largest - self.least) / high * part)
        for zero in _zeros(self.least, self.largest, scale, self.kind.bits):
            self._keep(part, scale, zero)

    def _keep(self, part: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None) -> None:
        q = torch.div(self.w, scale[:, None])
        if zero is None:
            nearest_(q, self.kind.integers)
        else:
            low, high, _ = self.kind.integers
            q.round_().clamp_(low - zero[:, None], high - zero[:, None])
        found = error(q.mul_(-scale[:, None]).add_(self.w), self.hessian, self.power)
        better = found < self.error
        for name, new in (("error", found), ("part", part), ("scale", scale), ("zero", zero)):
            if new is not None:
                setattr(self, name, torch.where(better, new, getattr(self, name)))


def error(e: torch.Tensor, hessian: torch.Tensor | None, power: float = 2.0) -> torch.Tensor:
    """The cost [N] of the differences `e` [N, B]."""
    if hessian is None:
        return (e * e if power == 2 else e.abs().pow(power)).sum(1)
    return ((e @ hessian) * e).sum(1) if hessian.dim() == 2 else (e * e * hessian).sum(1)


def _zeros(least: torch.Tensor, largest: torch.Tensor, scale: torch.Tensor, bits: int) -> Iterator[torch.Tensor]:
    """Zeros between covering the block's least and its largest weight; all there are where they are few."""
    top = (1 << bits) - 1
    if bits <= 2:
        yield from (torch.full_like(scale, zero) for zero in range(top + 1))
        return
    first, last = torch.round(-least / scale), top - torch.round(largest / scale)
    for share in (0.0, 1 / 3, 0.5, 2 / 3, 1.0):
        yield torch.round(first + (last - first) * share).clamp_(0, top)
