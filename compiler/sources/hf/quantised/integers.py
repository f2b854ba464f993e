"""A linear stored as integers as a float weight, the integers beside it; both are read in rows.

    w[n, k] = (u[n, k] - z[n, g]) * s[n, g]       float32, the product rounded once

Symmetric integers are given with a sign, u - 2^(bits-1); that every stored zero point is the middle is looked at as
rows are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from ....diagnostics.diagnostic import fail
from ....ir.stored_integers import STORED, StoredIntegers
from ....ir.weights import Weight
from ...finite_rows import finite
from . import unpack
from .parts import QuantisedTensor

Rows = Callable[[int, int], np.ndarray]


def float_weight(name: str, stored: QuantisedTensor) -> Weight:
    """The linear as lazy float32 rows, with the integers it is stored in as a fact about it."""
    read, (n, k) = _Reader(stored), stored.shape
    origin = f"{stored.parts['q'].file.path.name}:{stored.name} {stored.scheme.name}"
    weight = _finite(Weight(name, ir.DataType.FLOAT, (n, k), read.values, f"{origin} > float32"), stored)
    STORED.set(weight, _integers(name, stored, read, origin))
    return weight


def _finite(weight: Weight, stored: QuantisedTensor) -> Weight:
    """`weight` looked at as it is read: integers are numbers, so what is not finite comes from the scales."""
    scale = stored.parts["scale"]
    return finite(weight, scale.name, scale.file.path)


def _integers(name: str, stored: QuantisedTensor, read: _Reader, origin: str) -> StoredIntegers:
    scheme, (n, k) = stored.scheme, stored.shape
    held = next(width for width in (2, 3, 4, 8) if scheme.bits <= width)  # 5 to 7 bits lie in 8
    group = k if scheme.group is None else scheme.group
    if stored.act_order:
        return StoredIntegers(f"{scheme.name} in act-order", held, group, ordered=False)
    width = 4 if held <= 4 else 8
    kind = ir.DataType[f"{'INT' if scheme.symmetric else 'UINT'}{width}"]
    groups = scheme.groups(k)

    def part(leaf: str, dtype: ir.DataType, count: int, rows: Rows) -> Weight:
        return Weight(f"{name}.{leaf}", dtype, (n, count), rows, origin)

    q = part("q", kind, k, lambda a, b: read.integers(a, b).astype(kind.numpy()))
    scale = part("scale", ir.DataType.FLOAT, groups, read.scales)
    zero = None
    if not scheme.symmetric:
        zero = part("zero_point", kind, groups, lambda a, b: read.zeros(a, b).astype(kind.numpy()))
    return StoredIntegers(scheme.name, held, group, q, _finite(scale, stored), zero_point=zero)


@dataclass(frozen=True)
class _Reader:
    """Rows of one linear's parts."""

    stored: QuantisedTensor

    def values(self, start: int, stop: int) -> np.ndarray:
        """Float rows."""
        scheme = self.stored.scheme
        q, scale = self.integers(start, stop).astype(np.float32), self.scales(start, stop)
        if not scheme.symmetric:
            q -= self.zeros(start, stop).astype(np.float32)[:, self._group_of]
        return q * scale[:, self._group_of]

    def integers(self, start: int, stop: int) -> np.ndarray:
        """[rows, K]: as stored, or around zero where all zero points are the middle."""
        scheme, k = self.stored.scheme, self.stored.shape[1]
        part = self.stored.parts["q"]
        if scheme.layout == "gptq":
            u = unpack.inputs_in_columns(part, scheme.bits, k, start, stop)
        elif scheme.layout == "awq_gemm":
            u = unpack.outputs_in_rows(part, scheme.bits, start, stop, unpack.AWQ_ORDER)
        else:
            u = unpack.inputs_in_rows(part, scheme.bits, k, start, stop)
        if not scheme.symmetric:
            return u
        if "zero" in self.stored.parts:
            self._refuse_uneven(self.zeros(start, stop), start)
        return u.astype(np.int16) - self._middle

    def zeros(self, start: int, stop: int) -> np.ndarray:
        """[rows, groups], without sign."""
        scheme, groups = self.stored.scheme, self.stored.scheme.groups(self.stored.shape[1])
        part = self.stored.parts["zero"]
        if scheme.layout == "gptq":
            return unpack.outputs_in_rows(part, scheme.bits, start, stop, less_one=scheme.less_one)
        if scheme.layout == "awq_gemm":
            return unpack.outputs_in_rows(part, scheme.bits, start, stop, unpack.AWQ_ORDER)
        if scheme.layout == "awq_gemv":
            return unpack.inputs_in_rows(part, scheme.bits, groups, start, stop)
        return unpack.outputs_in_columns(part, scheme.bits, start, stop)

    def scales(self, start: int, stop: int) -> np.ndarray:
        """float32 [rows, groups]."""
        scheme, part = self.stored.scheme, self.stored.parts["scale"]
        groups = scheme.groups(self.stored.shape[1])
        if scheme.one_scale:
            return np.broadcast_to(unpack.floats(unpack.vector(part)), (stop - start, 1))
        by_output = scheme.layout in ("packed", "awq_gemv")
        made = unpack.rows(part, start, stop)[:, :groups] if by_output else unpack.columns(part, start, stop).T
        return unpack.floats(made)

    @property
    def _middle(self) -> int:
        return 1 << (self.stored.scheme.bits - 1)

    @cached_property
    def _group_of(self) -> np.ndarray:
        """[K]: which scale an input has."""
        scheme, k = self.stored.scheme, self.stored.shape[1]
        if not self.stored.act_order:
            return np.arange(k) // (scheme.group or k)
        part = self.stored.parts["order"]
        order = unpack.vector(part).view(np.int32)
        if order.min() < 0 or order.max() >= scheme.groups(k):
            where = f"tensor `{part.name}` in `{part.file.path}`"
            fail("E0349", f"{where} names a group beyond the {scheme.groups(k)} that there are")
        return order

    def _refuse_uneven(self, zeros: np.ndarray, start: int) -> None:
        wrong = (zeros != self._middle).any(axis=1)
        if wrong.any():
            part, row = self.stored.parts["zero"], start + int(wrong.argmax())
            message = f"tensor `{part.name}` in `{part.file.path}` has zero points other than {self._middle}"
            help = "the config says `sym`, and the tensors are not symmetric: correct it, or fetch the file again"
            fail("E0349", f"{message} for output {row}", help=help)
