"""Which stretches of the data file hold integers with a pattern of zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from ...compiler.emit.sparse_integers import SparseIntegers, sparse_integers
from ...compiler.ir.linears import Linear, linears
from . import pack
from .lower import OrtLowering


def sparse_in_files(
    before: Mapping[str, ir.Model],
    paths: Mapping[str, Path],
    lowering: OrtLowering,
    file: str,
) -> list[SparseIntegers]:
    """Those of the graphs `before` they were lowered, in `file`; each tensor once, by the linear that comes first."""
    found: dict[int, SparseIntegers] = {}
    for key, model in before.items():
        written = ir.load(paths[key])
        for linear in linears(lowering.module, model.graph):
            made = _integers(linear, written, lowering, file)
            if made is not None:
                found.setdefault(made.offset, made)
    return list(found.values())


def _integers(linear: Linear, written: ir.Model, lowering: OrtLowering, file: str) -> SparseIntegers | None:
    quant = linear.quant
    if quant is None:
        return None
    packed = lowering.packed.get(id(quant.q)) if linear.name in lowering.lowered else None
    names = [linear.initializer.name] if packed is None else [packed.q.name, packed.flat.name]
    place = next(_external(written, names), None)
    if place is None:  # small ones lie in the graph's own file
        return None
    if packed is None:
        bits, shift = quant.bits, 0
    else:
        bits = pack.stored_bits(quant)
        shift = 1 << (bits - 1) if quant.q.dtype.is_signed() else 0
        if quant.q.dims[1] % pack.stored_block(quant):  # filled up behind each row
            return None
    offset = place.offset or 0
    return sparse_integers(quant, file=file, name=linear.name, offset=offset, bits=bits, order="little", shift=shift)


def _external(model: ir.Model, names: Sequence[str | None]) -> Iterator[ir.ExternalTensor]:
    for name in names:
        value = model.graph.initializers.get(name or "")
        if value is not None and isinstance(value.const_value, ir.ExternalTensor):
            yield value.const_value
