"""How a weight lies in the files of a bundle, for the manifest's rows of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ir.linears import Linear, QuantizedWeight
    from ..ir.weights import Weight

_FLOATS = {"float": "float32", "double": "float64"}  # ONNX's names that are not numpy's


@dataclass(frozen=True)
class StoredWeight:
    """What an emitter has made of one weight.

    bytes  of everything that stands for it: integers, scales, zero points; of a float weight its floats
    dtype  of a float weight, as numpy names it; None: integers
    bits   that an integer takes; None: a float weight
    dense  bytes it would take without its pattern of zeros, where that makes a difference
    """

    bytes: int
    dtype: str | None = None
    bits: int | None = None
    dense: int | None = None


def as_in_module(linear: Linear) -> StoredWeight:
    """The tensors of the module as they are, which is what an emitter without a form of its own writes."""
    if linear.quant is not None:
        return StoredWeight(sum(one.nbytes for one in tensors(linear.quant)), bits=linear.quant.bits)
    if linear.stored is None:
        raise ValueError(f"`{linear.name}` has neither floats nor integers")
    return floats(linear.stored)


def floats(weight: Weight) -> StoredWeight:
    """A float tensor as it is written."""
    name = weight.dtype.name.lower()
    return StoredWeight(weight.nbytes, dtype=_FLOATS.get(name, name))


def tensors(quant: QuantizedWeight) -> list[Weight]:
    """Integers, scales, and zero points or minimums where it has them."""
    return [one for one in (quant.q, quant.scale, quant.zero_point, quant.minimum) if one is not None]
