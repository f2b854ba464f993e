"""The inputs a runner makes itself: ids, positions, rotary tables and the mask, for S slots after n positions.

input_ids            [1,S]           the new ids, then 0
position_ids         [1,S]           n .. n+S-1
position_ids_cos/sin [1,1,S,D/2]     cos, sin of position * inverse frequency, times the attention factor
attention_mask       [1,1,S,P+S]     0 or -1000: slot i sees past positions [0,n) and the new slots up to i,
                                     which stand behind all P past positions, [P, P+S)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .kv_cache import numpy_dtype

MASKED = -1000.0  # finite in fp16, and far below any score


def made_here(ids: Sequence[int], slots: int, length: int, past: int, rope: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All inputs above for `ids` in the first of `slots` slots, `length` of `past` past positions being filled."""
    positions = np.arange(length, length + slots)
    angle = positions[:, None].astype(np.float32) * np.asarray(rope["inverse_frequencies"], np.float32)
    factor = np.float32(rope["attention_factor"])
    padded = np.zeros(slots, np.int64)
    padded[: len(ids)] = ids
    return {
        "input_ids": padded[None],
        "position_ids": positions[None],
        "position_ids_cos": (np.cos(angle) * factor)[None, None],
        "position_ids_sin": (np.sin(angle) * factor)[None, None],
        "attention_mask": mask(slots, length, past)[None, None],
    }


def mask(slots: int, length: int, past: int) -> np.ndarray:
    """[S, P+S] additive."""
    hidden = np.ones((slots, past + slots), bool)
    hidden[:, :length] = False
    hidden[:, past:] = np.triu(np.ones((slots, slots), bool), 1)
    return np.where(hidden, np.float32(MASKED), np.float32(0))


def as_tensor(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """`array` in the type and, where that is static, the shape of a graph's tensor."""
    dtype, shape = numpy_dtype(spec["dtype"]), spec["shape"]
    quantization = spec.get("quantization")
    if quantization is not None and array.dtype.kind == "f":
        info = np.iinfo(dtype)
        stored = np.rint(array.astype(np.float64) / quantization["scale"]) + quantization["zero_point"]
        array = np.clip(stored, info.min, info.max)
    if all(isinstance(size, int) for size in shape):
        array = array.reshape(shape)
    return np.ascontiguousarray(array, dtype)


def as_float(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """A graph's output as float32; integers without a quantization stay what they are."""
    quantization = spec.get("quantization")
    if quantization is not None:
        return (array.astype(np.float32) - quantization["zero_point"]) * np.float32(quantization["scale"])
    return array if array.dtype.kind in "iubO" else array.astype(np.float32)
