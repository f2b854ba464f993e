"""Integers out of 32-bit words: a few outputs of a weight [N, K] at a time, whichever way the words lie.

    along inputs     a word holds integers of one output       along outputs    a word holds one input of many outputs

32 integers fill `bits` words without a gap. Of a tensor whose second axis is the outputs, a range of columns is read
row by row: nothing is held but what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....ir.packing import unpack_rows
from ..safetensors_index import StoredTensor

_TYPES = {"I32": np.uint32, "U32": np.uint32, "F16": np.float16, "F32": np.float32, "BF16": np.uint16}
_RUN = 32  # integers that begin and end with a word
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where the eight outputs of a word lie, the first output first


def columns(stored: StoredTensor, start: int, stop: int) -> np.ndarray:
    """Columns [start, stop) of a stored matrix, every row of them."""
    dtype = np.dtype(_TYPES[stored.dtype])
    rows, width = stored.shape
    size = dtype.itemsize
    if (start, stop) == (0, width):
        raw = stored.file.read(stored.offset, rows * width * size)
    else:
        count = (stop - start) * size
        raw = bytearray(rows * count)
        for row in range(rows):
            raw[row * count : (row + 1) * count] = stored.file.read(stored.offset + (row * width + start) * size, count)
    return np.frombuffer(raw, dtype).reshape(rows, stop - start)


def rows(stored: StoredTensor, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a stored matrix."""
    dtype = np.dtype(_TYPES[stored.dtype])
    width = stored.shape[1] * dtype.itemsize
    raw = stored.file.read(stored.offset + start * width, (stop - start) * width)
    return np.frombuffer(raw, dtype).reshape(stop - start, stored.shape[1])


def vector(stored: StoredTensor) -> np.ndarray:
    """A stored tensor of one axis, whole."""
    dtype = np.dtype(_TYPES[stored.dtype])
    return np.frombuffer(stored.file.read(stored.offset, stored.shape[0] * dtype.itemsize), dtype)


def floats(values: np.ndarray) -> np.ndarray:
    """Stored floats as float32; bfloat16 comes as its 16 bits."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def inputs_in_rows(stored: StoredTensor, bits: int, count: int, start: int, stop: int) -> np.ndarray:
    """[N, words] packed along the inputs: outputs [start, stop) as [outputs, count]."""
    return _unpacked(rows(stored, start, stop), bits, count)


def inputs_in_columns(stored: StoredTensor, bits: int, count: int, start: int, stop: int) -> np.ndarray:
    """[words, N] packed along the inputs: outputs [start, stop) as [outputs, count]."""
    return _unpacked(columns(stored, start, stop).T, bits, count)


def outputs_in_rows(
    stored: StoredTensor, bits: int, start: int, stop: int, order: Sequence[int] | None = None, less_one: bool = False
) -> np.ndarray:
    """[R, words] packed along the outputs, each eight in `order`: outputs [start, stop) as [outputs, R].

    `less_one`: GPTQ's zero points, which are stored minus one. Its tools subtract from whole words, so that a zero
    borrows from its neighbour; only adding to whole words gives both back.
    """
    first, last = _words(start, stop, bits)
    held = columns(stored, first, min(last, stored.shape[1]))
    whole = _RUN % bits == 0
    if less_one and whole:
        held = held + np.uint32(sum(1 << place for place in range(0, _RUN, bits)))
    made = _unpacked(held, bits, None)
    if less_one and not whole:
        made = (made + 1) & ((1 << bits) - 1)
    if order is not None:
        made = made.reshape(len(made), -1, len(order))[:, :, list(order)].reshape(made.shape)
    return made[:, start % _RUN :][:, : stop - start].T


def outputs_in_columns(stored: StoredTensor, bits: int, start: int, stop: int) -> np.ndarray:
    """[words, R] packed along the outputs: outputs [start, stop) as [outputs, R]."""
    first, last = _words(start, stop, bits)
    made = _unpacked(rows(stored, first, min(last, stored.shape[0])).T, bits, None)
    return made[:, start % _RUN :][:, : stop - start].T


def _words(start: int, stop: int, bits: int) -> tuple[int, int]:
    """The words that hold integers [start, stop), from the beginning of a run to the end of one."""
    return start // _RUN * bits, -(-stop // _RUN) * bits


def _unpacked(words: np.ndarray, bits: int, count: int | None) -> np.ndarray:
    """uint8 [R, count] of words [R, W]; without `count` as many as the words hold."""
    data = np.ascontiguousarray(words).view(np.uint8)
    return unpack_rows(data, bits, words.shape[1] * _RUN // bits if count is None else count, "little")
