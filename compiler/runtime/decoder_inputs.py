"""The inputs a runner makes itself: ids, positions, rotary tables and the mask, for S slots after n positions.

input_ids            [1,S]           the new ids, then 0
position_ids         [1,S]           n .. n+S-1
position_ids_cos/sin [1,1,S,D/2]     cos, sin of position * inverse frequency, times the attention factor
attention_mask       [1,1,S,P+S]     0 or -1000: slot i sees past positions [0,n) and the new slots up to i,
                                     which stand behind all P past positions, [P, P+S)

Of a tree of tokens each slot has the position of its depth and sees its own path alone (`Branching`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..diagnostics.diagnostic import fail
from .kv_cache import numpy_dtype
from .value_types import Unfit, converted

MASKED = -1000.0  # finite in fp16, and far below any score


@dataclass(frozen=True)
class Branching:
    """Where tokens of a tree stand: `base` positions of text, then slots whose parents are slots; -1: the text's end.

    `parents` of all slots, those in the past first; `positions` follow from them.
    """

    base: int
    parents: Sequence[int]

    def paths(self) -> list[list[int]]:
        """Of each slot: itself and the slots above it."""
        found: list[list[int]] = []
        for slot, parent in enumerate(self.parents):
            found.append([slot] if parent < 0 else [*found[parent], slot])
        return found


def made_here(
    ids: Sequence[int],
    slots: int,
    length: int,
    past: int,
    rope: Mapping[str, Any],
    branching: Branching | None = None,
) -> dict[str, np.ndarray]:
    """All inputs above for `ids` in the first of `slots` slots, `length` of `past` past positions being filled.

    `branching`: the ids are its last slots.
    """
    positions = np.arange(length, length + slots)
    seen = mask(slots, length, past)
    if branching is not None:
        paths = branching.paths()[-len(ids) :]
        positions[: len(ids)] = [branching.base + len(path) - 1 for path in paths]
        seen[: len(ids)] = tree_mask(paths, slots, length, past, branching.base)
    angle = positions[:, None].astype(np.float32) * np.asarray(rope["inverse_frequencies"], np.float32)
    factor = np.float32(rope["attention_factor"])
    padded = np.zeros(slots, np.int64)
    padded[: len(ids)] = ids
    return {
        "input_ids": padded[None],
        "position_ids": positions[None],
        "position_ids_cos": (np.cos(angle) * factor)[None, None],
        "position_ids_sin": (np.sin(angle) * factor)[None, None],
        "attention_mask": seen[None, None],
    }


def mask(slots: int, length: int, past: int) -> np.ndarray:
    """[S, P+S] additive."""
    hidden = np.ones((slots, past + slots), bool)
    hidden[:, :length] = False
    hidden[:, past:] = np.triu(np.ones((slots, slots), bool), 1)
    return np.where(hidden, np.float32(MASKED), np.float32(0))


def tree_mask(paths: Sequence[Sequence[int]], slots: int, length: int, past: int, base: int) -> np.ndarray:
    """[len(paths), P+S] additive: each sees the `base` positions of the text and its path.

    Slots of the tree that are in the cache, [base, length), are past ones; the others follow at P.
    """
    made = np.full((len(paths), past + slots), np.float32(MASKED))
    made[:, :base] = 0
    for row, path in enumerate(paths):
        made[row, [base + slot if base + slot < length else past + base + slot - length for slot in path]] = 0
    return made


def as_tensor(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """`array` in the type and, where that is static, the shape of a graph's tensor; E0923 for integers beyond it."""
    dtype, shape = numpy_dtype(spec["dtype"]), spec["shape"]
    quantization = spec.get("quantization")
    if quantization is not None and array.dtype.kind == "f":
        info = np.iinfo(dtype)
        stored = np.rint(array.astype(np.float64) / quantization["scale"]) + quantization["zero_point"]
        array = np.clip(stored, info.min, info.max)
    elif dtype.kind in "iub" and array.dtype != dtype:
        array = _integers(array, spec)
    if all(isinstance(size, int) for size in shape):
        array = array.reshape(shape)
    return np.asarray(array, dtype, order="C")  # `ascontiguousarray` gives one number an axis


def _integers(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    try:
        return converted(array, spec["dtype"])
    except Unfit as problem:
        fail("E0923", f"`{spec['name']}` enters its engine as {spec['dtype']}, and {problem}")


def as_float(array: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """A graph's output as float32; integers without a quantization stay what they are."""
    quantization = spec.get("quantization")
    if "packed" in spec:
        from ..ir.packed_cache import unpacked  # brings onnx-ir, which a runner can do without

        return unpacked(array, spec["packed"]["groups"])
    if quantization is not None:
        return (array.astype(np.float32) - quantization["zero_point"]) * np.float32(quantization["scale"])
    return array if array.dtype.kind in "iubO" else array.astype(np.float32)
