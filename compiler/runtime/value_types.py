"""Values in another type, or an error: integers never wrap, floats are never cut."""

from __future__ import annotations

import numpy as np

from .kv_cache import numpy_dtype

_ROUNDS = ("float", "bfloat")


class Unfit(ValueError):
    """A value that a type does not hold; the text goes on from "the array"."""


def converted(array: np.ndarray, name: str) -> np.ndarray:
    """The same values in the type that a manifest calls `name`; Unfit where it does not hold one.

    Floats are rounded to the nearest of the type, and what is finite has to stay so. Texts stay texts, numbers numbers.
    """
    dtype = numpy_dtype(name)
    texts = array.dtype.kind in "OSU"
    if texts != (dtype.kind == "O"):
        raise Unfit("holds texts" if texts else "holds numbers")
    if texts or array.dtype == dtype:
        return array.astype(dtype)
    if array.dtype.kind in "cmM" or array.dtype.names is not None:
        raise Unfit(f"holds {array.dtype.name} values")
    with np.errstate(over="ignore", invalid="ignore"):
        made = array.astype(dtype)
        if name.startswith(_ROUNDS):
            lost = np.isfinite(array.astype(np.float64)) & ~np.isfinite(made.astype(np.float64))
        else:
            lost = made.astype(array.dtype) != array
            if "u" in (array.dtype.kind, dtype.kind):  # a sign that wraps comes back
                lost |= (made < 0) | (array < 0)
    if lost.any():
        raise Unfit(f"holds {array[lost].ravel()[0]}")
    return made
