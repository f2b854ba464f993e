"""The integers a checkpoint stores a weight in, beside the floats they stand for: what `quantize(method = keep)` ships.

    w[n, k] = (q[n, k] - zero_point[n, k / B]) * scale[n, k / B]
    w[n, k] = q[n, k] * scale[n, k / B] + minimum[n, k / B]

A source attaches them to the float weight it describes; a weight derived from that one has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .annotations import Annotation, Subject, define
from .weights import DryWeight, Weight, slice_rows


@dataclass(frozen=True)
class StoredIntegers:
    """What a weight [N, K] is stored in. `q` and its scales are None for a type that is no such grid of blocks.

    name        the type's own word: `Q4_1`, `gptq int4 group 128`
    bits        what an integer of the type takes, or stands nearest to: 2, 3, 4 or 8
    block       inputs that share a scale; the last block of a row may be smaller, K: one scale per output
    q           [N, K] int4 or int8; with zero points or minimums uint4 or uint8
    scale       float32 [N, blocks], minimum too; zero_point [N, blocks] in the type of q; both None: around zero
    ordered     False: the inputs of a block do not lie beside each other (GPTQ's act-order)
    """

    name: str
    bits: int
    block: int
    q: Weight | None = None
    scale: Weight | None = None
    minimum: Weight | None = None
    zero_point: Weight | None = None
    ordered: bool = True

    @property
    def symmetric(self) -> bool:
        """Whether integers stand around zero."""
        return self.q is not None and self.zero_point is None and self.minimum is None

    def dried(self) -> StoredIntegers:
        """The same for a dry run: tensors with their shapes and no numbers."""
        q, scale, minimum, zero = (_dry(part) for part in (self.q, self.scale, self.minimum, self.zero_point))
        return replace(self, q=q, scale=scale, minimum=minimum, zero_point=zero)


STORED: Annotation[StoredIntegers] = define(Annotation("edgec.stored_integers", Subject.TENSOR))  # on a float weight


def stored_integers(weight: Weight) -> StoredIntegers | None:
    """What `weight`, float as a source describes it, is stored in; None where it is stored in floats."""
    return STORED.get(weight)


def sliced(whole: StoredIntegers, start: int, stop: int) -> StoredIntegers:
    """The integers of the rows [start, stop) of a weight."""
    parts = (whole.q, whole.scale, whole.minimum, whole.zero_point)
    made = [None if part is None else slice_rows(part.name, part, start, stop) for part in parts]
    return replace(whole, q=made[0], scale=made[1], minimum=made[2], zero_point=made[3])


def _dry(weight: Weight | None) -> Weight | None:
    return None if weight is None else DryWeight(weight.name, weight.dtype, weight.dims, weight.origin)
