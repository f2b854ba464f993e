"""HTP's own store for sparse weights: which linears it takes, and the rows that all of a graph's need then.

    int8 per channel, 2:4      uint16 or uint8 activations      8 bits a weight -> 5
    int4 per channel, pairs    uint16 activations               4 bits a weight -> 2.5

The compiler has an option for it that ONNX Runtime's provider does not pass on (`htp/sparse_option.py`). With uint16
activations and few rows HTP picks kernels that read the packed bytes as if they were dense, without a word, and for
dense linears too, whose zeros it packs where chance has put enough. So with the option every linear of a part is fed
at least 32 rows, copies of its own, of which the first are kept; and every compile is guarded (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...compiler.diagnostics.diagnostic import Span, fail
from ...compiler.emit.part import Part
from ...compiler.ir.activation_encodings import encoding_of, quantised
from ...compiler.ir.linears import Linear, as_linear
from ...compiler.ir.sparse_pattern import PAIRS
from ...compiler.ir.sparsity import SPARSITY

ROWS = 32  # 17 and more were right; below, sixteen rows of two bytes fill one tile
TWO_OF_FOUR = "2:4"
PATTERNS = {8: TWO_OF_FOUR, 4: PAIRS}  # by bits of the weight
SHARE = 5 / 8  # of the bits: half of the numbers, and a bit for each that says which


def packs(linear: Linear) -> bool:
    """Whether HTP stores this linear's integers sparse."""
    quant = linear.quant
    if quant is None or quant.block is not None or not quant.symmetric or linear.kind not in ("matmul", "gemm"):
        return False
    found = SPARSITY.get(quant.q)
    return found is not None and found.axis == 1 and found.pattern == PATTERNS.get(quant.bits)


def packed(parts: Iterable[Part]) -> Iterator[Linear]:
    """The linears that are stored sparse, once each: all buckets of a part have the same."""
    for part in parts:
        graph = next(iter(part.graphs.values())).graph
        if quantised(graph):
            wide = any(encoding is not None and encoding.dtype == "uint16" for encoding in map(encoding_of, graph))
            found = (linear for node in graph if (linear := as_linear(node)) is not None and packs(linear))
            yield from (linear for linear in found if wide or linear.quant is None or linear.quant.bits == 8)


def asked(options: Any, parts: Iterable[Part], origin: Span | None = None) -> bool:
    """Whether the parts are compiled with the store: where one linear fits it and the plan does not say otherwise."""
    setting = getattr(options, "sparse_store", "off")
    if setting == "off":
        return False
    if any(True for _ in packed(parts)):
        return True
    if setting == "on":
        fail(
            "E0642",
            "`sparse_store = on`, and no linear on the NPU is of a form that HTP stores sparse",
            origin,
            help="it takes `sparsify (pattern = 2:4)` with `weights = int8`, and `pattern = pairs` with "
            "`weights = int4`, both with `block = channel` and `activations = uint16`",
        )
    return False


def least_rows(options: Any, parts: Iterable[Part]) -> int:
    """What every linear of the parts is fed at least, for the check and the proofs before a compile."""
    return ROWS if asked(options, parts) else 1
