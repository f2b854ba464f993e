"""The integers of a quantised graph in the place of those that MNN's converter makes of the floats they stand for.

The converter spreads its codes between the smallest and the largest value of a block:

    w[o, i] = u[o, i] * scale[o, b] + minimum[o, b]              u = round((w - minimum) / scale)

which rounds integers a second time, by as much as they were rounded first. Codes and alphas are of the same size in the
file whatever they say, so the module's own are written over them; of q around zero, u = q + 2^(bits-1):

    scale = s,   minimum = -zero * s                             zero = 2^(bits-1), or the zero point as u counts
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from ....compiler.ir.linears import Linear, QuantizedWeight, as_linear
from ....compiler.ir.packing import pack_rows
from ..file.read_back import WeightReader, blob_of, weight_file
from ..file.weight_blobs import Blob, row_ranges
from ..file.writer import dump

_SUFFIX = "__matmul_converted"  # what the converter calls the convolution that it makes of a MatMul
_ROUNDED = 0.51  # of a scale: what a second rounding moves a weight by


def put_integers(path: Path, graph: ir.Graph) -> list[str]:
    """Write the integers of `graph` into the weights of `path`; the linears whose weights the converter changed.

    An op that took over what follows has another name than the graph's: its weight is found by its values.
    """
    blobs = {op["name"]: blob for op in dump(path)["oplists"] if (blob := blob_of(op)) is not None}
    reader, left = WeightReader(weight_file(path)), []
    with weight_file(path).open("r+b") as file:
        for node in graph:
            linear = as_linear(node)
            if linear is None or linear.quant is None or linear.kind == "gather":
                continue
            called = node.outputs[0].name or ""
            named = [name for name in (called, f"{called}{_SUFFIX}") if name in blobs]
            found = next((name for name in named or blobs if _holds(reader, blobs[name], linear)), None)
            if found is None:
                left.append(linear.name)
                continue
            _write(file, blobs.pop(found), linear.quant)
            file.flush()  # the reader looks at what is left
    return left


def _holds(reader: WeightReader, blob: Blob, linear: Linear) -> bool:
    """Whether the blob is the linear's weight, rounded once more, and has a place for its integers."""
    quant = linear.quant
    if quant is None or not linear.rows_are_outputs or blob.bits > 8 or not blob.minimum or blob.half_alpha:
        return False
    rows, columns = quant.q.dims[0], int(np.prod(quant.q.dims[1:], dtype=np.int64))
    if (blob.rows, blob.columns, blob.block) != (rows, columns, quant.block or columns):
        return False
    if quant.minimum is not None or blob.bits != quant.format.bits:
        return False
    weight = linear.weight()
    for start, stop in row_ranges(quant):
        alpha = reader.alpha(blob, start, stop).repeat(blob.block, axis=1)
        theirs = reader.codes(blob, start, stop) * alpha[..., 1] + alpha[..., 0]
        ours = weight.rows(start, stop).reshape(stop - start, columns)
        if not (np.abs(theirs - ours) <= _ROUNDED * alpha[..., 1] + 1e-6 * np.abs(ours)).all():
            return False
    return True


def _write(file: BinaryIO, blob: Blob, quant: QuantizedWeight) -> None:
    for start, codes, alphas in _rows(quant, blob.bits):
        file.seek(blob.offset + blob.header_bytes + start * blob.columns * blob.bits // 8)
        file.write(pack_rows(codes.reshape(1, -1), blob.bits, "big").tobytes())
        file.seek(blob.offset + blob.code_bytes + start * alphas[0].nbytes)
        file.write(alphas.tobytes())


def _rows(quant: QuantizedWeight, bits: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first row, codes u [rows, columns], (minimum, scale) float32 [rows, blocks, 2]) of a weight in row ranges."""
    shift = 1 << (bits - 1) if quant.q.dtype.is_signed() else 0
    for start, stop in row_ranges(quant):
        codes = quant.q.rows(start, stop).astype(np.int16).reshape(stop - start, -1) + shift
        scale = quant.scale.rows(start, stop).astype(np.float32).reshape(stop - start, -1)
        zero = np.full(scale.shape, shift, np.float32)
        if quant.zero_point is not None:
            zero = quant.zero_point.rows(start, stop).astype(np.float32).reshape(scale.shape) + shift
        yield start, codes, np.ascontiguousarray(np.stack([-zero * scale, scale], axis=-1))
