"""Round to nearest: the integers, scales and zero points of a weight, made from its float rows as they are asked for.

For the weights w of one block (or of one whole row), b bits:

    symmetric    scale = fp16(max|w| / (2^(b-1) - 1))          q = clip(round(w / scale), -2^(b-1), 2^(b-1) - 1)
    asymmetric   scale = fp16((max(w,0) - min(w,0)) / (2^b - 1))
                 zero_point = round(-min(w,0) / scale)         q = clip(round(w / scale) + zero_point, 0, 2^b - 1)
    one bit      scale = fp16(mean|w|)                         q = -1 or 1, by the sign of w
    ternary      scale = fp16(mean of |w| > 0.7 mean|w|)       q = clip(round(w / scale), -1, 1)

The last two stand for means, where the scale that reaches the largest weight would leave most at zero or far off: the
least squared error (Rastegari et al. 2016, arXiv 1603.05279) and all but that (Li and Liu 2016, arXiv 1605.04711).
Weights that are already -s, 0 and s in each block stay what they are.

Scales are rounded to float16 before the integers are chosen, because that is how engines store them. One below
float16's smallest number, 2^-24, is raised to it: an all-zero block has integers zero (or its zero point) and that
scale. Scales in float16's subnormal range keep fewer digits; the error that adds is below 2^-24 * 2^(b-1). A scale
above float16's largest number is an error, and so are weights that are not finite.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import Span, fail
from ...compiler.ir.annotations import FLOAT_WEIGHT, FORMAT, Transform
from ...compiler.ir.linears import dequantised
from ...compiler.ir.weight_format import TWO_LEVEL, WeightFormat
from ...compiler.ir.weights import Weight, derive
from ...compiler.kernels.rounding import IN_NUMPY, Rounding, rounding

_SMALLEST = np.float32(2.0**-24)
_LARGEST = np.float32(65504.0)
_MANY = 1 << 16  # weights in a piece that are worth a library in C: building it takes a second, once
_PIECE = 1 << 18  # weights that a core rounds at once
_TERNARY_ZERO = np.float32(0.7)  # of the mean magnitude: what lies below becomes zero


@dataclass(frozen=True)
class QuantizedTensors:
    """The lazy tensors of one quantised weight."""

    q: Weight
    scale: Weight
    zero_point: Weight | None
    minimum: Weight | None = None  # a float per block in place of a zero point

    @property
    def nbytes(self) -> int:
        """Bytes of integers, scales and zero points, each in its packed form."""
        return sum(w.nbytes for w in (self.q, self.scale, self.zero_point, self.minimum) if w is not None)

    def value(self) -> Weight:
        """What the integers stand for [N, ...], float32."""
        block = None if len(self.scale.dims) == 1 else self.q.dims[1] // self.scale.dims[1]

        def rows(start: int, stop: int) -> np.ndarray:
            return dequantised(self.q, self.scale, self.zero_point, block, start, stop, self.minimum)

        return derive(self.q.name, ir.DataType.FLOAT, self.q.dims, rows, self.q, Transform.DEQUANTISE, "dequantised")


def quantise(w: np.ndarray, format_: WeightFormat) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """`w` float32 [rows, K] -> integers [rows, K] (a byte each), scales and zero points [rows, blocks]."""
    scale, zero = _scales(w, format_)
    low, high, step = format_.integers
    if step == 1:
        return _kernels(w).round(w, scale, zero, low, high), scale, zero
    q = (_groups(w, format_) / scale[..., None] - low) / step
    np.rint(q, out=q)
    return np.clip(q * step + low, low, high).astype(np.int8).reshape(w.shape), scale, zero


def scales(w: np.ndarray, format_: WeightFormat) -> tuple[np.ndarray, np.ndarray | None]:
    """Scales and zero points alone."""
    return _scales(w, format_)


def make(name: str, source: Weight, format_: WeightFormat, origin: Span | None) -> QuantizedTensors:
    """`source` [N, ...] in `format_`, lazily. `name` is what messages call it."""
    n = source.dims[0]
    k = int(np.prod(source.dims[1:], dtype=np.int64))
    per_row = (n,) if format_.block is None else (n, k // format_.block)
    # a float16 model multiplies in float16: its dequantised weights have to be of that type too
    scale_type = ir.DataType.FLOAT16 if source.dtype == ir.DataType.FLOAT16 else ir.DataType.FLOAT

    def floats(start: int, stop: int) -> np.ndarray:
        w = np.ascontiguousarray(source.rows(start, stop), np.float32).reshape(stop - start, k)
        _check(name, w, start, format_, origin)
        return w

    last = LastRows()

    def q_rows(start: int, stop: int) -> np.ndarray:
        q, scale, zero = quantise_in_pieces(floats, start, stop, k, format_)
        last.keep(start, stop, (scale, zero))
        return q.astype(format_.dtype.numpy()).reshape((stop - start, *source.dims[1:]))

    def scale_rows(start: int, stop: int) -> np.ndarray:
        made, _ = last.of(start, stop) or scales(floats(start, stop), format_)
        return made.astype(scale_type.numpy()).reshape((stop - start, *per_row[1:]))

    def zero_rows(start: int, stop: int) -> np.ndarray:
        _, zero = last.of(start, stop) or scales(floats(start, stop), format_)
        if zero is None:
            raise ValueError(f"`{name}` is symmetric")
        return zero.astype(format_.dtype.numpy()).reshape((stop - start, *per_row[1:]))

    q = derive(f"{name}.q", format_.dtype, source.dims, q_rows, source, Transform.QUANTISE, str(format_))
    FLOAT_WEIGHT.set(q, source)
    FORMAT.set(q, format_)
    scale = derive(f"{name}.scale", scale_type, per_row, scale_rows, source, Transform.MEASURE, "scale")
    if format_.symmetric:
        return QuantizedTensors(q, scale, None)
    return QuantizedTensors(
        q,
        scale,
        derive(f"{name}.zero_point", format_.dtype, per_row, zero_rows, source, Transform.MEASURE, "zero point"),
    )


class LastRows:
    """Scales and zero points of the rows whose integers were made last: an emitter asks for them next.

    One block is held by each thread, whichever weight it is of.
    """

    _slot = threading.local()

    def keep(self, start: int, stop: int, made: tuple[np.ndarray, np.ndarray | None]) -> None:
        """Hold what was made of rows [start, stop), in the place of what was held."""
        self._slot.held = (self, start, stop, made)

    def of(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None] | None:
        """What is held of just these rows."""
        held = getattr(self._slot, "held", None)
        return held[3] if held is not None and held[0] is self and held[1:3] == (start, stop) else None


def quantise_in_pieces(
    floats: Callable[[int, int], np.ndarray], start: int, stop: int, columns: int, format_: WeightFormat
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """`quantise` of `floats(start, stop)`, in pieces on all cores: rows do not depend on each other.

    A piece is so small that its floats lie in a core's cache and in memory that the piece before it had.
    """
    step = max(1, _PIECE // columns)
    if stop - start <= step:
        return quantise(floats(start, stop), format_)
    blocks = columns // (format_.block or columns)
    q = np.empty((stop - start, columns), np.int8 if format_.integers.low < 0 else np.uint8)
    scale = np.empty((stop - start, blocks), np.float32)
    zeros = None if format_.symmetric else np.empty_like(scale)

    def piece(first: int) -> None:
        end = min(first + step, stop)
        at = slice(first - start, end - start)
        q[at], scale[at], zero = quantise(floats(first, end), format_)
        if zeros is not None:
            zeros[at] = zero

    for _ in _threads().map(piece, range(start, stop, step)):
        pass
    return q, scale, zeros


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="quantise")


@cache
def _cores() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _top(format_: WeightFormat) -> int:
    return (1 << format_.bits) - 1


def _groups(w: np.ndarray, format_: WeightFormat) -> np.ndarray:
    return w.reshape(len(w), -1, _size(w, format_))


def _size(w: np.ndarray, format_: WeightFormat) -> int:
    return format_.block or w.shape[1]


def _kernels(w: np.ndarray) -> Rounding:
    return rounding() if w.size >= _MANY else IN_NUMPY


def _scales(w: np.ndarray, format_: WeightFormat) -> tuple[np.ndarray, np.ndarray | None]:
    if format_.symmetric and format_.integers.high == -format_.integers.low:
        return _half(_means(np.abs(w), format_)), None
    if format_.symmetric:
        largest = _kernels(w).largest(w, _size(w, format_)).reshape(len(w), -1)
        scale = _half(largest / np.float32(format_.integers.high))
        return (two_level(scale) if format_.scales == TWO_LEVEL else scale), None
    ranges = _kernels(w).ranges(w, _size(w, format_))
    low, high = np.minimum(ranges[0], 0).reshape(len(w), -1), np.maximum(ranges[1], 0).reshape(len(w), -1)
    scale = _half((high - low) / np.float32(_top(format_)))
    return scale, np.clip(np.rint(-low / scale), 0, _top(format_))


def _means(size: np.ndarray, format_: WeightFormat) -> np.ndarray:
    """What -1 and 1 stand for in each block of the magnitudes `size`."""
    count = _size(size, format_)
    mean = np.add.reduceat(size, np.arange(0, size.shape[1], count), axis=1) / np.float32(count)
    if not format_.ternary:
        return mean
    large = _groups(size, format_) > _TERNARY_ZERO * mean[..., None]
    return (_groups(size, format_) * large).sum(-1) / np.maximum(large.sum(-1), 1).astype(np.float32)


def _half(scale: np.ndarray) -> np.ndarray:
    return np.maximum(scale.astype(np.float16).astype(np.float32), _SMALLEST)


def two_level(scale: np.ndarray) -> np.ndarray:
    """`scale` [rows, K/B] as i * c: i = 1 .. 15 per block, the row's c with 7 bits, so that float16 holds each i * c.

    c is the row's largest scale over 15, rounded up to 7 bits; i the nearest. So a row's scales are recovered from
    them: see `split_two_level`.
    """
    mantissa, exponent = np.frexp(scale.max(axis=-1, keepdims=True) / np.float32(15))
    c = np.maximum(np.ldexp(np.ceil(mantissa * 128) / 128, exponent), _SMALLEST).astype(np.float32)
    return (np.clip(np.rint(scale / c), 1, 15) * c).astype(np.float32)


def _check(name: str, w: np.ndarray, start: int, format_: WeightFormat, origin: Span | None) -> None:
    reach = format_.integers.high if format_.symmetric else ((1 << (format_.bits - 1)) - 1) / 2
    largest = _LARGEST * reach / format_.integers.step  # the distance of -1 and 1 is a scale too, in bit planes
    if w.size and -largest <= w.min() and w.max() <= largest:  # false where one of them is NaN
        return
    finite = np.isfinite(w).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        what = "NaN" if np.isnan(w[row]).any() else "infinity"
        fail(
            "E0411",
            f"`{name}` holds {what} in row {start + row}: it cannot be quantised",
            origin,
            help=f'leave it as it is with `except ["{_op(name)}"]`, or repair the model',
        )
    big = np.abs(w).max(axis=1, initial=0) > largest
    if big.any():
        row = int(np.argmax(big))
        fail(
            "E0412",
            f"`{name}` holds {np.abs(w[row]).max():g} in row {start + row}: its scale does not fit float16",
            origin,
            help=f'leave it as it is with `except ["{_op(name)}"]`',
        )


def _op(name: str) -> str:
    return name.removesuffix(".weight")
