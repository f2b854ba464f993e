"""Linears on integer activations: y[1,S,N] = x[1,S,K] @ w[K,N] with w behind DequantizeLinear, as HTP takes it.

    per_channel   w = DQ(q[K,N] i4|i8, s[N], 0, axis 1)
    lpbq          w = DQ(q[K,N] i4, DQ(i[K/B,N] u8, c[N], 0, axis 1), 0, axis 0, block B)       i = 1 .. 15
    block         w = DQ(q[K,N] i4|i8, s[K/B,N], axis 0, block B)                               scales in fp16 on HTP
    float weight  w = DQ(q[K,N] i16, s[N], 0, axis 1),  s = max|w| / 32639                      16 bits, like fp16

`lpbq` is for weights whose format says that every scale of a row is an integer of 1 to 15 times one float, which
`scales = lpbq` makes so: nothing is rounded here. Integers have no zero point: HTP refuses UINT4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ....compiler.emit.refusals import refuse
from ....compiler.ir.linears import Linear, QuantizedWeight
from ....compiler.ir.weight_format import TWO_LEVEL
from ....compiler.ir.weights import DryWeight, Weight, from_array
from .transposed_weight import TransposedWeight

if TYPE_CHECKING:
    from .lowering import Lowering

LPBQ_BLOCKS = (16, 32, 64)  # 8 computes garbage, 128 and 256 crash the emulator on some shapes
_EXACT = 1e-6
_TOP = 127 * 257  # of int16 weights: HTP holds them as two signed bytes, and takes what is above for this


def integer_product(low: Lowering, linear: Linear, x: ir.Value, rows: int) -> ir.Value:
    """The product of a linear; its use is noted as `u16.linear` or `u8.linear`."""
    whole, quant = low.integers, linear.quant
    if whole is None:
        raise ValueError("the graph's activations are no integers")
    (n, k), bits = linear.shape, whole.known(x).dtype.replace("int", "")
    if quant is None:
        weight, words = _float_weight(low, linear), {"weights": "int16", "format": "per_channel", "block": 0}
    else:
        _refuse(linear, quant)
        weight, words = _weight(low, linear, quant)
    copies = -(-low.least_rows // rows)
    if copies == 1:
        low.use(f"{bits}.linear", linear.node, tokens=rows, k=k, n=n, **words)
        return low.build.op("MatMul", x, weight, shape=(1, rows, n))
    low.use(f"{bits}.linear", linear.node, tokens=rows * copies, k=k, n=n, **words)
    if x not in low.repeated:  # once for all that read it
        shape = (1, rows * copies, k)
        low.repeated[x] = low.build.op("Concat", *[x] * copies, shape=shape, step="more_rows", axis=1)
    made = low.build.op("MatMul", low.repeated[x], weight, shape=(1, rows * copies, n))
    bounds = (low.build.ints(number) for number in (0, rows, 1))
    return low.build.op("Slice", made, *bounds, shape=(1, rows, n), step="first_rows")


def _refuse(linear: Linear, quant: QuantizedWeight) -> None:
    odd = "zero points" if not quant.symmetric else "" if linear.rows_are_outputs else "weights stored as [K, N]"
    if odd or quant.bits not in (4, 8):
        refuse(
            "E0635",
            f"{{}}: {odd or f'{quant.bits} bits'} have no lowering for HTP with integer activations",
            linear.name,
            help="use symmetric int4 or int8 weights (the quantize pass makes them so), or `activations = fp16`",
            cause="format",
        )


def _weight(low: Lowering, linear: Linear, quant: QuantizedWeight) -> tuple[ir.Value, dict[str, Any]]:
    build, name = low.build, linear.initializer.name or linear.name
    n, k = linear.shape
    q = build.weight(_turn(low, quant.q, f"{name}.turned", quant.q.dtype), f"{name}.turned")
    words: dict[str, Any] = {"weights": f"int{quant.bits}", "block": quant.block or 0}
    if quant.block is None:
        scale = build.weight(_scale(low, quant.scale, name, lambda s: s.reshape(n)), f"{name}.scale")
        zero = build.constant(f"const.zeros.{quant.q.dtype.name.lower()}.{n}", np.zeros(n, quant.q.dtype.numpy()))
        inputs, attributes = [q, scale, zero], {"axis": 1}
        return _dequantize(low, inputs, (k, n), attributes), {**words, "format": "per_channel"}
    blocks = {"axis": 0, "block_size": quant.block}
    if quant.format.scales != TWO_LEVEL or quant.block not in LPBQ_BLOCKS:
        scale = build.weight(_scale(low, quant.scale, name, lambda s: s.T), f"{name}.scale")
        return _dequantize(low, [q, scale], (k, n), blocks), {**words, "format": "block"}
    parts, channels = _two_levels(quant.scale)
    block_scale = _scale(low, quant.scale, f"{name}.block", lambda _: parts.T)
    channel = _scale(low, quant.scale, f"{name}.channel", lambda _: channels)
    zeros = build.constant(f"const.zeros.uint8.{n}", np.zeros(n, np.uint8))
    scale_inputs = [build.weight(block_scale, f"{name}.block_scale"), build.weight(channel, f"{name}.channel_scale")]
    scale = _dequantize(low, [*scale_inputs, zeros], (k // quant.block, n), {"axis": 1})
    dims = (k // quant.block, n)
    none = build.constant(f"const.zeros.int4.{dims[0]}.{n}", np.zeros(dims, ir.DataType.INT4.numpy()))
    return _dequantize(low, [q, scale, none], (k, n), blocks), {**words, "format": "lpbq"}


def _dequantize(low: Lowering, inputs: list[ir.Value], shape: tuple[int, int], attributes: dict[str, Any]) -> ir.Value:
    return low.build.op("DequantizeLinear", *inputs, shape=shape, step="weight", **attributes)


def _two_levels(scale: Weight) -> tuple[np.ndarray, np.ndarray]:
    """`split_two_level`, of the right shapes for a dry weight."""
    if isinstance(scale, DryWeight):
        return np.broadcast_to(np.uint8(1), scale.dims), np.broadcast_to(np.float32(1), scale.dims[:1])
    return split_two_level(scale.numpy())


def split_two_level(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales [N, K/B] as integers 1 .. 15 [N, K/B] times a float [N]; ValueError when they are no such product."""
    channel = (scale.max(axis=1, keepdims=True) / np.float32(15)).astype(np.float32)
    parts = np.rint(scale / channel)
    if parts.min() < 1 or not np.allclose(parts * channel, scale, rtol=_EXACT, atol=0):
        raise ValueError("the scales are no integers of 1 to 15 times one float per row")
    return parts.astype(np.uint8), channel[:, 0]


def _turn(low: Lowering, source: Weight, name: str, dtype: ir.DataType) -> Weight:
    n, k = source.dims

    def make() -> Weight:
        return TransposedWeight(name, dtype, (k, n), lambda a, b: source.numpy().T[a:b], source.origin)

    return low.build.store.get(source, "turned integers", make)


def _scale(low: Lowering, source: Weight, name: str, make: Callable[[np.ndarray], np.ndarray]) -> Weight:
    def build() -> Weight:
        if isinstance(source, DryWeight):
            shape = make(np.broadcast_to(np.float32(1), source.dims))
            return DryWeight(f"{name}.scale", ir.DataType.from_numpy(shape.dtype), shape.shape, source.origin)
        made = np.ascontiguousarray(make(source.numpy().astype(np.float32)))
        return from_array(f"{name}.scale", made, source.origin)

    return low.build.store.get(source, f"integer product {name}", build)


def _float_weight(low: Lowering, linear: Linear) -> ir.Value:
    """A float weight in 16 bits per channel."""
    source, (n, k) = linear.weight(), linear.shape
    name, held = linear.initializer.name or linear.name, linear.stored
    if held is None:
        raise ValueError(f"linear `{linear.name}` has no float weight")
    outline = isinstance(source, DryWeight)
    top = np.ones(n) if outline else np.concatenate([np.abs(block).max(axis=1) for _, block in source.blocks()])
    scale = np.maximum(top / _TOP, 1e-12).astype(np.float32)

    def rows(start: int, stop: int) -> np.ndarray:
        whole = np.rint(source.numpy() / scale[:, None]).clip(-_TOP, _TOP).astype(np.int16)
        return whole.T[start:stop]

    build = low.build
    made = build.store.get(
        held,
        "turned int16",
        lambda: TransposedWeight(f"{name}.int16", ir.DataType.INT16, (k, n), rows, f"{held.origin} > int16"),
    )
    scales = build.store.get(held, "scale int16", lambda: from_array(f"{name}.int16_scale", scale, held.origin))
    zero = build.constant(f"const.zeros.int16.{n}", np.zeros(n, np.int16))
    inputs = [build.weight(made, f"{name}.int16"), build.weight(scales, f"{name}.int16_scale"), zero]
    return _dequantize(low, inputs, (k, n), {"axis": 1})
