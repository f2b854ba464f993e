"""Feeds of a static graph in the layouts of its target-level form.

past_key_i_in [1,KV,P,HD] -> [KV,1,HD,P]     past_value_i_in [1,KV,P,HD] -> [KV,1,P,HD]
cos, sin [1,S,HD/2] -> position_ids_cos, position_ids_sin [1,1,S,HD/2]     float32 -> fp16, int64 -> int32
with an encoding: x -> clip(round(x / scale) + zero_point)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ....compiler.ir import kv_names
from ....compiler.ir.activation_encodings import Encoding
from .lowering import COS, SIN

Input = tuple[str, tuple[int, ...], np.dtype]


def to_target(
    inputs: Iterable[Input], feeds: Mapping[str, np.ndarray], encodings: Mapping[str, Encoding] | None = None
) -> dict[str, np.ndarray]:
    """What a target graph with `inputs` is fed where its static form is fed `feeds`."""
    return {name: _convert(name, shape, dtype, feeds, (encodings or {}).get(name)) for name, shape, dtype in inputs}


def _convert(
    name: str, shape: tuple[int, ...], dtype: np.dtype, feeds: Mapping[str, np.ndarray], encoding: Encoding | None
) -> np.ndarray:
    given = feeds[{COS: "cos", SIN: "sin"}.get(name, name) if name not in feeds else name]
    read = kv_names.parse(name)
    if read is not None and read.direction == kv_names.IN:
        given = given.transpose((1, 0, 3, 2) if read.kind == kv_names.KEY else (1, 0, 2, 3))
    if encoding is not None:
        limits = np.iinfo(dtype)
        given = np.clip(np.rint(given / encoding.scale) + encoding.zero_point, limits.min, limits.max)
    return np.ascontiguousarray(given.astype(dtype).reshape(shape))


def from_target(outputs: Mapping[str, np.ndarray], encodings: Mapping[str, Encoding]) -> dict[str, np.ndarray]:
    """Outputs as floats where they are integers."""
    made = dict(outputs)
    for name, encoding in encodings.items():
        if name in made:
            made[name] = (made[name].astype(np.float32) - encoding.zero_point) * np.float32(encoding.scale)
    return made
