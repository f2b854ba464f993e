"""Small integers packed into bytes, in either bit order.

order      4 bits: 1 2 15   2 bits: 1 2 3 0   3 bits: 5 6 7   used by
"little"   21 0f            39                f5 01           ONNX's tensors, MatMulNBits
"big"      12 f0            6c                bb 80           MNN's weights
"""

from __future__ import annotations

from typing import Literal

import numpy as np

BitOrder = Literal["little", "big"]


def pack_rows(values: np.ndarray, bits: int, order: BitOrder) -> np.ndarray:
    """Integers [R, C] -> uint8 [R, ceil(C * bits / 8)], each row from a byte of its own, filled up with zero bits.

    `bits` is 1 to 8. `little`: the first integer lies in the low bits of the first byte; `big`: in the high ones.
    Negative integers are stored as two's complement.
    """
    if bits == 8:
        return values.astype(np.uint8)
    values = values.astype(np.uint8) & ((1 << bits) - 1)
    if 8 % bits:  # integers that cross bytes
        stream = (values[:, :, None] >> _places(bits, 1, order)) & 1
        return np.packbits(stream.reshape(len(values), -1), axis=1, bitorder=order)
    if values.shape[1] % (8 // bits):
        values = np.pad(values, ((0, 0), (0, -values.shape[1] % (8 // bits))))
    while bits < 8:
        values, bits = _join_pairs(values, bits, order), 2 * bits
    return values


def _join_pairs(values: np.ndarray, bits: int, order: BitOrder) -> np.ndarray:
    """Neighbours of `bits` each as one of twice as many; of the 16 bits that hold two the low byte is the first."""
    pairs = np.ascontiguousarray(values).view("<u2")
    joined = pairs >> 8 - bits if order == "little" else pairs >> 8
    joined |= pairs if order == "little" else pairs << bits
    return joined.astype(np.uint8)


def unpack_rows(data: np.ndarray, bits: int, count: int, order: BitOrder) -> np.ndarray:
    """The inverse of `pack_rows`: the first `count` integers of each row of `data`, without sign, uint8 [R, count]."""
    if bits == 8:
        return data[:, :count].astype(np.uint8)
    if 8 % bits:
        stream = np.unpackbits(data, axis=1, count=count * bits, bitorder=order).reshape(len(data), count, bits)
        return (stream << _places(bits, 1, order)).sum(axis=2, dtype=np.uint8)
    made = np.empty((*data.shape, 8 // bits), np.uint8)
    for i, place in enumerate(_places(8, bits, order)):
        made[..., i] = (data >> place) & ((1 << bits) - 1)
    return made.reshape(len(data), -1)[:, :count]


def _places(width: int, step: int, order: BitOrder) -> np.ndarray:
    """How far each field of `step` bits is shifted inside `width` bits, the first one first."""
    places = np.arange(0, width, step, dtype=np.uint8)
    return places if order == "little" else places[::-1]
