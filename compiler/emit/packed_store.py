"""The option `store` of targets whose weight files can lie packed in the bundle. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .capabilities import Refusal

if TYPE_CHECKING:
    from ..ir.linears import Linear
    from .part import Part

PACKED = "packed"  # the value of `store` that asks for packed weight files
STORES = ("dense", PACKED)
STORE_DOC = (
    "how integers that `sparsify` has put in a pattern lie in the bundle. packed: without zeros, for download and "
    "flash; `edgec unpack`, or unpack.c on the device, restores the engine's file byte for byte. dense: as the engine "
    "reads them"
)
STORE_WORDS = ("sparse_store", "sparse", "weights_file", "pack", "packed", "compress")


def wants_packed(options: Any) -> bool:
    """Whether a deploy line asks for packed weight files."""
    return getattr(options, "store", "dense") == PACKED


def refuse_dense(options: Any, parts: Iterable[Part]) -> Iterator[Refusal]:
    """The refusal of `store = packed` where no weight of the parts has a pattern."""
    from .sparse_integers import pattern_of

    linears = list(_linears(parts)) if wants_packed(options) else []
    if not wants_packed(options) or any(pattern_of(linear.quant) is not None for linear in linears):
        return
    message = "`store = packed` leaves out the zeros of sparse weights, and none of these is sparse and in integers"
    help = (
        "add `sparsify (pattern = 2:4)` (`method = keep` for a model that is pruned already) and a `quantize` behind it"
    )
    held = (linear.initializer.const_value for linear in linears)
    ended = next((text for weight in held for text in getattr(weight, "ended", ())), None)
    if ended is not None:
        message, help = f"{message}: {ended}", "put `sparsify` behind the line that ends its pattern"
    yield Refusal("E0222", message, help=f"{help}, or leave `store` out")


def _linears(parts: Iterable[Part]) -> Iterator[Linear]:
    from ..ir.linears import as_linear

    for part in parts:
        graph = next(iter(part.graphs.values())).graph
        yield from (linear for node in graph if (linear := as_linear(node)) is not None)
