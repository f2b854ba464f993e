"""The fact that a weight is sparse in a pattern; which of its numbers are zero is told by the zeros themselves.

It is stated on the tensor [N, K] (or [K, N]) and stays on the integers that are made of it; its check reads the numbers
by rows. An emitter asks `SPARSITY.get(linear.quant.q)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .annotations import Annotation, Subject, Transform, define
from .linears import as_quantized
from .sparse_pattern import Sparsity
from .weights import Weight, as_weight

_HELD = "edgec.sparsity.held"  # in a tensor's meta: the fact that its numbers were found to fit


def _through(sparsity: Sparsity, transform: Transform) -> Sparsity:
    return sparsity.turned() if transform is Transform.TRANSPOSE else sparsity


def _unlike(value: ir.Value, sparsity: Sparsity) -> Iterator[str]:
    """What of a tensor's numbers is not in the pattern; a tensor that has been read is not read again."""
    tensor = value.const_value
    if tensor is None or tensor.meta.get(_HELD) == sparsity:
        return
    weight = as_weight(tensor)
    if len(weight.dims) != 2 or weight.dims[sparsity.axis] % sparsity.group:
        yield f"is {list(weight.dims)}, which groups of {sparsity.group} along axis {sparsity.axis} do not divide"
        return
    found = first_unlike(_numbers(value, weight), sparsity)
    if found is None:
        tensor.meta[_HELD] = sparsity
        return
    yield f"is not {sparsity}: {found}"


def _numbers(value: ir.Value, weight: Weight) -> Weight:
    """What integers stand for, where they are dequantised: an asymmetric grid has its zero at an integer of its own."""
    for node, index in value.uses():
        quant = as_quantized(node) if index == 0 else None
        if quant is not None:
            return Weight(weight.name, ir.DataType.FLOAT, weight.dims, quant.rows, weight.origin)
    return weight


@dataclass(frozen=True)
class Unlike:
    """A group of one output's inputs with more units than the pattern leaves: `count` are not zero."""

    output: int
    first: int
    last: int
    count: int
    noun: str

    def __str__(self) -> str:
        return f"of inputs {self.first} to {self.last} of output {self.output}, {self.count}{self.noun} are not zero"


def kept_units(nonzero: np.ndarray, sparsity: Sparsity) -> np.ndarray:
    """How many units of each group hold a number: `nonzero` bool [N, K] -> [N, K / group]."""
    groups = nonzero.reshape(len(nonzero), -1, sparsity.group)
    return groups[:, :, np.array(sparsity.units)].any(-1).sum(-1)


def first_unlike(weight: Weight, sparsity: Sparsity) -> Unlike | None:
    """The first group that does not fit the pattern, None if all do; `weight` is read in blocks of rows."""
    along = sparsity.axis == 1
    for start, rows in weight.blocks(multiple=1 if along else sparsity.group):
        nonzero = rows != 0
        counts = kept_units(nonzero if along else nonzero.T, sparsity)
        if (counts > sparsity.keep).any():
            row, group = (int(i) for i in np.argwhere(counts > sparsity.keep)[0])
            first = group * sparsity.group
            output, first = (start + row, first) if along else (row, start + first)
            noun = " pairs" if len(sparsity.units[0]) > 1 else ""
            return Unlike(output, first, first + sparsity.group - 1, int(counts[row, group]), noun)
    return None


_KEEPS = frozenset(
    {
        Transform.CAST,
        Transform.SCALE,
        Transform.TRANSPOSE,
        Transform.UNTIE,
        Transform.QUANTISE,
        Transform.DEQUANTISE,
    }
)  # each of them leaves zeros zero and where they are; an engine's packing puts numbers elsewhere

SPARSITY: Annotation[Sparsity] = define(
    Annotation("edgec.sparsity", Subject.TENSOR, _KEEPS, show=str, check=_unlike, through=_through)
)  # on a weight or its integers
PACKED_SPARSITY: Annotation[Sparsity] = define(
    Annotation("edgec.packed_sparsity", Subject.TENSOR, frozenset({Transform.UNTIE}))
)  # on integers in the layout of an op of ours: the pattern that they have as [N, K]
