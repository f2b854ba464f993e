"""The integers a checkpoint stores a weight in, beside the floats they stand for: what `quantize(method = keep)` ships.

    w[n, k] = q[n, k] * scale[n, k / B] (+ minimum[n, k / B])

A source attaches them to the float weight it describes; a weight derived from that one has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .annotations import Annotation, Subject, define
from .weights import DryWeight, Weight


@dataclass(frozen=True)
class StoredIntegers:
    """What a weight [N, K] is stored in. `q` and its scales are None for a type that is no such grid of blocks.

    name     the type's own word: `Q4_1`
    bits     what an integer of the type takes, or stands nearest to
    q        [N, K] int4, int8 or (with a minimum) uint4; scale and minimum float32 [N, K/block]
    """

    name: str
    bits: int
    block: int
    q: Weight | None = None
    scale: Weight | None = None
    minimum: Weight | None = None

    def dried(self) -> StoredIntegers:
        """The same for a dry run: tensors with their shapes and no numbers."""
        return replace(self, q=_dry(self.q), scale=_dry(self.scale), minimum=_dry(self.minimum))


STORED: Annotation[StoredIntegers] = define(Annotation("edgec.stored_integers", Subject.TENSOR))  # on a float weight


def stored_integers(weight: Weight) -> StoredIntegers | None:
    """What `weight`, float as a source describes it, is stored in; None where it is stored in floats."""
    return STORED.get(weight)


def _dry(weight: Weight | None) -> Weight | None:
    return None if weight is None else DryWeight(weight.name, weight.dtype, weight.dims, weight.origin)
