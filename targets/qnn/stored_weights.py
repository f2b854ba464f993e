"""How the weights of NPU parts lie in a context binary: the integers and scales that the HTP compiler was given.

    fp16       integers in 2, 4 or 8 bits, a float16 scale per block (per channel: repeated), zero points     float16
    integers   integers; LPBQ: 4 bits per block, a float per output; float scales: 16 bits per block     int16, uint16

With HTP's sparse store the integers of linears that fit it take five eighths (`sparse_store.py`).

The binary's own tables, some 20 KB for each linear of each graph, are not weights and not counted here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import onnx_ir as ir

from ...compiler.emit.part import Part
from ...compiler.emit.stored_weight import StoredWeight
from ...compiler.ir.activation_encodings import quantised
from ...compiler.ir.linears import Linear, QuantizedWeight, linears
from ...compiler.ir.module import Module
from ...compiler.ir.weight_format import TWO_LEVEL
from .lower.linear import BLOCKS, stored_bits
from .lower.linear_integers import LPBQ_BLOCKS
from .sparse_store import SHARE
from .sparse_store import packed as packed_linears


def stored_weights(module: Module, parts: Iterable[Part], sparse: Collection[str] = ()) -> dict[str, StoredWeight]:
    """By linear; buckets share their weights. `sparse`: the parts that are compiled with HTP's sparse store."""
    found = {}
    for part in parts:
        graph: ir.Graph = next(iter(part.graphs.values())).graph
        packed = {linear.name for linear in packed_linears([part])} if part.name in sparse else set()
        for linear in linears(module, graph):
            found[linear.name] = stored_weight(linear, quantised(graph), linear.name in packed)
    return found


def stored_weight(linear: Linear, integers: bool, sparse: bool) -> StoredWeight:
    """Of one linear, in a graph with integer activations or without, in HTP's sparse store or not."""
    quant, size = linear.quant, math.prod(linear.shape)
    if quant is None:
        if not integers:
            return StoredWeight(2 * size, "float16")
        if linear.kind == "gather":
            return StoredWeight(2 * size, "uint16")
        return StoredWeight(2 * size + 4 * linear.shape[0], "int16")
    bits = quant.bits if integers else stored_bits(quant)
    scales = _scale_bits(quant, linear.shape, integers, bits)
    dense = (size * bits + scales + 7) // 8
    made = (int(size * bits * (SHARE if sparse else 1.0)) + scales + 7) // 8
    return StoredWeight(made, bits=bits, dense=dense if made < dense else None)


def _scale_bits(quant: QuantizedWeight, shape: tuple[int, ...], integers: bool, bits: int) -> int:
    """Bits of all scales and zero points."""
    outputs, inputs = shape[0], math.prod(shape[1:])
    if integers:
        if quant.block is None:
            return 32 * outputs
        blocks = outputs * inputs // quant.block
        two_level = quant.format.scales == TWO_LEVEL and quant.block in LPBQ_BLOCKS
        return 4 * blocks + 32 * outputs if two_level else 16 * blocks
    block = quant.block or next((size for size in BLOCKS if inputs % size == 0), inputs)
    return outputs * (inputs // block) * (16 + (0 if quant.symmetric else bits))
