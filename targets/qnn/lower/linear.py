"""Linears, embeddings and products of activations.

    quantised    y[1,S,N] = MatMulNBits(x[1,S,K], q[N, K/B, B*bits/8] u8, s[N, K/B] fp16 (, z))     w = (q - z) * s
    float        y[..,N]  = x[..,K] @ W[K,N]                                                        fp16
    embedding    y[1,S,H] = W[V,H][ids]                                                             fp16

MatMulNBits holds unsigned integers: an int4 q is stored as q + 8, low nibble first along K, an int8 as q + 128; a
symmetric weight has no zero points, their default (8, 128) being exactly that shift. One scale per channel becomes
the same scale for every block of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ....compiler.emit.refusals import refuse
from ....compiler.ir.annotations import Transform
from ....compiler.ir.linears import Linear, QuantizedWeight, as_linear
from ....compiler.ir.packing import pack_rows
from ....compiler.ir.weights import Weight, derive
from .builder import CONTRIB, FP16, ON_CPU, checked_half, static_shape
from .linear_integers import integer_product
from .transposed_weight import TransposedWeight

if TYPE_CHECKING:
    from .lowering import Lowering

BLOCKS = (256, 128, 64, 32, 16)
BITS = (2, 4, 8)


def _matmul(low: Lowering, node: ir.Node) -> ir.Value:
    linear = as_linear(node)
    if linear is not None:
        return _linear(low, linear)
    shape, left = static_shape(node.outputs[0]), static_shape(_present(node, 0))
    low.use("op.MatMul", node, rank=len(shape), m=left[-2], k=left[-1], n=shape[-1])
    return low.build.op("MatMul", low.value(node.inputs[0]), low.value(node.inputs[1]), shape=shape)


def _gemm(low: Lowering, node: ir.Node) -> ir.Value:
    linear = as_linear(node)
    if linear is None or (linear.bias is not None and _number(node, "beta", 1.0) != 1.0):
        refuse(
            "E0634",
            "{}: Gemm with alpha, beta or transA, or without a constant weight, has no lowering for HTP",
            node.name or "",
            help=ON_CPU,
        )
    made = _linear(low, linear)
    if linear.bias is None:
        return made
    return low.build.op("Add", made, low.value(linear.bias), shape=static_shape(made), step="bias")


def _linear(low: Lowering, linear: Linear) -> ir.Value:
    x = _present(linear.node, 0)
    shape, (n, k) = static_shape(x), linear.shape
    rows = math.prod(shape[:-1])
    if low.integers is not None:
        flat = low.build.reshape(low.value(x), (1, rows, k), "rows")
        return low.build.reshape(integer_product(low, linear, flat, rows), (*shape[:-1], n), "back")
    if linear.quant is not None:
        flat = low.build.reshape(low.value(x), (1, rows, k), "rows")
        made = _nbits(low, linear, linear.quant, flat, rows)
        return low.build.reshape(made, (*shape[:-1], n), "back")
    low.use("matmul", linear.node, tokens=rows, k=k, n=n)
    weight = low.build.weight(_turned(low, linear), f"{linear.initializer.name}.turned")
    return low.build.op("MatMul", low.value(x), weight, shape=(*shape[:-1], n))


def _turned(low: Lowering, linear: Linear) -> Weight:
    """The float weight as fp16 [K, N]."""
    source = linear.stored
    if source is None:
        raise ValueError(f"linear `{linear.name}` has no float weight")
    name = linear.initializer.name or linear.name
    if not linear.rows_are_outputs:
        return low.build.store.half(source, name)
    n, k = source.dims

    def rows(start: int, stop: int) -> np.ndarray:
        whole = np.empty((n, k), np.float16)
        for first, block in source.blocks():
            whole[first : first + len(block)] = checked_half(block, name)
        return whole.T[start:stop]

    origin = f"{source.origin} > fp16 [K, N]"
    return low.build.store.get(source, "turned", lambda: TransposedWeight(f"{name}.turned", FP16, (k, n), rows, origin))


def _nbits(low: Lowering, linear: Linear, quant: QuantizedWeight, x: ir.Value, rows: int) -> ir.Value:
    n, k = linear.shape
    block, bits = _block(linear, quant, k), stored_bits(quant)
    low.use("matmul_nbits", linear.node, tokens=rows, k=k, n=n, bits=bits, block=block, symmetric=quant.symmetric)
    build, store, name = low.build, low.build.store, linear.initializer.name or linear.name
    per = 8 // bits
    packed = store.get(
        quant.q,
        f"nbits{block}",
        lambda: derive(
            f"{name}.nbits", ir.DataType.UINT8, (n, k // block, block // per),
            lambda a, b: _shifted_bytes(quant, a, b).reshape(b - a, k // block, block // per), quant.q,
            Transform.PACK, "MatMulNBits",
        ),
    )  # fmt: skip
    inputs = [x, build.weight(packed, f"{name}.nbits")]
    scale = store.get(quant.scale, f"scale{block}", lambda: _blocked_scale(quant, name, n, k // block))
    inputs.append(build.weight(scale, f"{name}.nbits_scale"))
    if quant.zero_point is not None:
        zero = store.get(quant.zero_point, f"zero{block}", lambda: _blocked_zero(quant, name, n, k // block))
        inputs.append(build.weight(zero, f"{name}.nbits_zero"))
    return build.op(
        "MatMulNBits", *inputs, shape=(1, rows, n), step="nbits", domain=CONTRIB,
        K=k, N=n, bits=bits, block_size=block,
    )  # fmt: skip


def stored_bits(quant: QuantizedWeight) -> int:
    """Bits of an integer in MatMulNBits: the module holds those of 2 and 3 bits in 4, HTP takes 2, 4 and 8."""
    return next((width for width in BITS if quant.format.bits <= width), quant.bits)


def _block(linear: Linear, quant: QuantizedWeight, k: int) -> int:
    """The block size of MatMulNBits: the weight's own, or for one scale per channel the largest that divides K."""
    if quant.bits not in BITS or not linear.rows_are_outputs:
        kind = f"{quant.bits}-bit" if quant.bits not in BITS else "[K, N]"
        refuse(
            "E0635",
            f"{{}}: {kind} quantised weights have no lowering for HTP",
            linear.name,
            help="use int4 or int8 weights stored as [outputs, inputs] (the quantize pass makes them so)",
            cause="format",
        )
    axis = 1 if quant.block is not None else 0
    fitting = [size for size in BLOCKS if k % size == 0] if quant.block is None else [quant.block]
    if quant.axis != axis or not fitting or k % fitting[0] or fitting[0] not in BLOCKS:
        grain = "one scale per channel" if quant.block is None else f"block {quant.block}"
        refuse(
            "E0635",
            f"{{}}: {grain} does not fit {k} inputs on HTP, whose blocks are {_listed()} and divide them",
            linear.name,
            help="choose a block size that divides the inputs, or leave this linear out with `except`",
            cause="format",
        )
    return fitting[0]


def _listed() -> str:
    return ", ".join(str(size) for size in sorted(BLOCKS))


def _shifted_bytes(quant: QuantizedWeight, start: int, stop: int) -> np.ndarray:
    """Rows as unsigned integers (signed ones shifted by half the range), packed low nibble first: [rows, bytes]."""
    bits = stored_bits(quant)
    return pack_rows(_unsigned(quant.q, bits, start, stop), bits, "little")


def _unsigned(integers: Weight, bits: int, start: int, stop: int) -> np.ndarray:
    """Rows shifted by half the range of `bits` if they have a sign."""
    shift = 1 << (bits - 1) if integers.dtype.is_signed() else 0
    return (integers.rows(start, stop).astype(np.int16) + shift).astype(np.uint8)


def _blocked_scale(quant: QuantizedWeight, name: str, n: int, blocks: int) -> Weight:
    def rows(start: int, stop: int) -> np.ndarray:
        scale = checked_half(quant.scale.rows(start, stop), f"{name} scale")
        return np.ascontiguousarray(np.broadcast_to(scale.reshape(stop - start, -1), (stop - start, blocks)))

    return derive(f"{name}.nbits_scale", FP16, (n, blocks), rows, quant.scale, Transform.CAST, "fp16 per block")


def _blocked_zero(quant: QuantizedWeight, name: str, n: int, blocks: int) -> Weight:
    zero = quant.zero_point
    if zero is None:
        raise ValueError(f"`{name}` has no zero points")
    bits = stored_bits(quant)

    def rows(start: int, stop: int) -> np.ndarray:
        z = _unsigned(zero, bits, start, stop).reshape(stop - start, -1)
        return pack_rows(np.broadcast_to(z, (stop - start, blocks)), bits, "little")

    columns = (blocks * bits + 7) // 8
    return derive(f"{name}.nbits_zero", ir.DataType.UINT8, (n, columns), rows, zero, Transform.PACK, "packed per row")


def _gather(low: Lowering, node: ir.Node) -> ir.Value:
    linear = as_linear(node)
    if linear is None:
        refuse(
            "E0634",
            "{}: Gather has a lowering for HTP only as an embedding (a constant table, axis 0)",
            node.name or "",
            help=ON_CPU,
        )
    if linear.quant is not None:
        refuse(
            "E0636",
            f"{{}}: HTP has no lookup in a quantised table; as fp16 it would take "
            f"{_mib(2 * math.prod(linear.shape))} where the plan's format takes {_mib(linear.quant.q.nbytes)}",
            linear.name,
            help="leave out the line that places it on the NPU: it is then looked up on the CPU; or leave it out of "
            "quantize with `except`",
            cause="format",
        )
    vocab, size = linear.shape
    ids = _present(node, 1)
    low.use("embedding", node, tokens=math.prod(static_shape(ids)), vocab=vocab, size=size)
    table = linear.stored
    if table is None:
        raise ValueError(f"`{linear.name}` has no table")
    stored = low.build.store.half(table) if low.integers is None else table
    weight = low.build.weight(stored, linear.initializer.name or linear.name)
    return low.build.op("Gather", weight, low.value(ids), shape=(*static_shape(ids), size), step="lookup", axis=0)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _present(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"`{node.name}` lacks input {index}")
    return value


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


RULES = {"MatMul": _matmul, "Gemm": _gemm, "Gather": _gather}
