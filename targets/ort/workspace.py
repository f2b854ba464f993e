"""What ONNX Runtime takes inside a linear, x [T,K] times integers [N,K] in blocks of B inputs.

    4 N K            MatMulNBits, where it has no kernel for the integers and makes the matrix of floats in each call:
                     float zero points, and with `compute = float32` all widths but 4 bits
    T (K + 8 K / B)  MatMulNBits with `compute = int8`: rounded activations, of each block a scale and a sum
    4 N K to 8 N K   DequantizeLinear, with graph optimisation off: the matrix of floats, and its transpose

Counted in allocations of 1.31 (`benchmarks/allocated.py`, `tests/ort_target/test_workspace.py`).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ...compiler.ir.linears import Linear, as_linear
from . import pack
from .lower import OrtLowering

if TYPE_CHECKING:
    import onnx_ir as ir

    from . import OrtOptions

_WITH_FLOATS = 4  # bits that have a kernel of float32 activations


def workspace(node: ir.Node, options: OrtOptions) -> int:
    """Bytes inside the op that `node` is lowered to."""
    linear = as_linear(node)
    if linear is None or linear.kind == "own":
        return 0
    plain = options.format != "matmulnbits"
    if linear.quant is None or plain or OrtLowering.refusal(linear) is not None:
        return 4 * prod(linear.shape) * _copies(linear, plain)
    if linear.kind == "gather":
        return 0
    n, k = linear.shape
    if expands(linear, options.compute):
        return 4 * n * k
    rows = prod(dim for dim in list(node.inputs[0].shape or ())[:-1] if isinstance(dim, int)) if node.inputs[0] else 0
    return rows * (k + 8 * -(-k // pack.stored_block(linear.quant))) if options.compute == "int8" else 0


def _copies(linear: Linear, plain: bool) -> int:
    """Float matrices that are made of a linear's weight in each call: one of its integers, one transposed."""
    turned = linear.kind == "matmul" and linear.rows_are_outputs and (plain or linear.quant is not None)
    return int(linear.quant is not None) + int(turned)


def expands(linear: Linear, compute: str) -> bool:
    """Whether the engine makes a packed linear's matrix of floats in each call."""
    quant = linear.quant
    if quant is None:
        return False
    return quant.minimum is not None or (compute == "float32" and pack.stored_bits(quant) != _WITH_FLOATS)
