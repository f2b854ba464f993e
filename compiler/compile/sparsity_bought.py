"""What a pattern of zeros buys in each artifact: bytes on disk, bytes read for a token, speed. Rows of the manifest.

disk    integers, scales and zero points of the weights with the pattern, as they lie in the bundle
dense   the same without the pattern
token   what an engine reads of them for one token
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..emit.packed_store import PACKED
from ..emit.sparse_form import SparseForm
from ..emit.stored_weight import as_in_module
from ..ir.linears import Linear, linears
from ..ir.sparsity import SPARSITY
from ..registry import find_target
from .pack_models import saved_bytes

if TYPE_CHECKING:
    from .compile_model import CompiledModel


def sparsity_bought(model: CompiledModel) -> list[dict[str, Any]]:
    """A row for each part and pattern; empty for a model without sparse weights."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    saved = saved_bytes(model)
    for part, pattern, linear in _sparse(model):
        entry = model.emission.parts[part]
        form = find_target(entry["target"])().sparse_form(entry)
        row = rows.setdefault((part, pattern), _empty(part, pattern, entry, form))
        stored = model.emission.stored.get(linear.name) or as_in_module(linear)
        dense = stored.dense or stored.bytes
        row["weights"] += 1
        row["bytes"]["dense"] += dense
        row["bytes"]["token"] += stored.bytes
        row["bytes"]["disk"] += stored.bytes - saved.get(linear.name, 0)
        if linear.name in saved:
            row["form"] = PACKED
    return list(rows.values())


def _empty(part: str, pattern: str, entry: dict[str, Any], form: SparseForm) -> dict[str, Any]:
    row = {"part": part, "file": entry["file"], "pattern": pattern, "weights": 0, "form": form.form}
    row |= {"bytes": {"dense": 0, "disk": 0, "token": 0}, "speed": form.speed, "why": form.why}
    if form.measured is not None:
        row["measured"] = dict(zip(("dense", "sparse"), form.measured, strict=True))
    return row


def _sparse(model: CompiledModel) -> Iterator[tuple[str, str, Linear]]:
    """Part, pattern and linear of each sparse weight; one that several parts read counts in the first."""
    places: dict[str, str] = {}
    for part in model.cut.parts:
        if part.name in model.emission.parts:
            for node in next(iter(part.graphs.values())).graph:
                places.setdefault(node.name or "", part.name)
    for linear in linears(model.compressed):
        held = linear.stored if linear.quant is None else linear.quant.q
        found = None if held is None else SPARSITY.get(held)
        if found is not None and linear.name in places:
            yield places[linear.name], str(found), linear
