"""`method = keep`: a weight ships in the integers that its checkpoint stores.

stored as                                   ships as
q * scale                                   the same q and scale
q * scale + minimum                         the same, where the target stores a float minimum per block
another grid, or a minimum without a place  rounded to the nearest grid of the same width, with a note of the loss
floats                                      nothing to keep: an error that names the weights
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...compiler.diagnostics.diagnostic import fail
from ...compiler.ir.annotations import FLOAT_WEIGHT, FORMAT, Transform
from ...compiler.ir.module import Module
from ...compiler.ir.stored_integers import StoredIntegers, stored_integers
from ...compiler.ir.weight_format import MINIMUM, WeightFormat
from ...compiler.ir.weights import Weight, derive
from ...compiler.pipeline.pass_interface import Scope
from .rewrite import candidates, quantize_graph
from .round_to_nearest import QuantizedTensors, make

_SHOWN = 3
_ANY = WeightFormat(8, None, True, "keep")  # every linear and embedding can take it


def keep(module: Module, scope: Scope) -> int:
    """Quantise what the step selects with the integers of its source; the number of uses that changed."""
    found = candidates(module.main.graph, module, _ANY, scope)
    stored = {name: stored_integers(weight) for name, weight in found.items()}
    _refuse_floats([name for name, integers in stored.items() if integers is None], module, scope)
    formats = {name: _format(integers, scope) for name, integers in stored.items() if integers is not None}

    def solver(weights: Mapping[str, Weight]) -> dict[str, QuantizedTensors]:
        made = {name: _kept(name, weight, formats[name]) for name, weight in weights.items() if _fits(weight, scope)}
        if not scope.dry:
            _note_rounded({name: weights[name] for name in weights.keys() - made.keys()}, formats, scope)
        return made

    return quantize_graph(module.main.graph, module, lambda name: formats.get(name, _ANY), scope, solver)


def _format(stored: StoredIntegers, scope: Scope) -> WeightFormat:
    if stored.minimum is not None and scope.minimums:
        return WeightFormat(stored.bits, stored.block, False, "keep", MINIMUM)
    symmetric = stored.q is not None and stored.minimum is None
    return WeightFormat(stored.bits, stored.block, symmetric, "keep")


def _fits(weight: Weight, scope: Scope) -> bool:
    """Whether the target stores the integers of `weight` as they are."""
    stored = stored_integers(weight)
    return stored is not None and stored.q is not None and (stored.minimum is None or scope.minimums)


def _kept(name: str, weight: Weight, format_: WeightFormat) -> QuantizedTensors:
    stored = stored_integers(weight)
    if stored is None or stored.q is None or stored.scale is None:
        raise ValueError(f"`{name}` has no integers to keep")
    q = derive(f"{name}.weight.q", stored.q.dtype, stored.q.dims, stored.q.rows, stored.q, Transform.QUANTISE, "kept")
    FLOAT_WEIGHT.set(q, weight)
    FORMAT.set(q, format_)
    return QuantizedTensors(q, stored.scale, None, stored.minimum)


def _refuse_floats(names: list[str], module: Module, scope: Scope) -> None:
    if not names:
        return
    listed = ", ".join(f"`{name}`" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    verb, it = ("has", "it") if len(names) == 1 else ("have", "them")
    message = f"{listed}{more} of `{module.name}` {verb} no integers to keep: the checkpoint stores {it} in floats, "
    message += f"or an earlier line changed {it}"
    help = "`keep` is for GGUF files of quantised types; leave these out with `except`, or choose another method"
    fail("E0421", message, scope.origin, help=help)


def _note_rounded(weights: Mapping[str, Weight], formats: Mapping[str, WeightFormat], scope: Scope) -> None:
    """Say of each stored type that has no place in the target what rounding it costs."""
    kinds: dict[str, list[str]] = {}
    for name, weight in sorted(weights.items()):
        stored = stored_integers(weight)
        kinds.setdefault(stored.name if stored else "", []).append(name)
    for kind, names in kinds.items():
        loss, total = 0.0, 0.0
        for name in names:
            weight = weights[name]
            made = make(name, weight, formats[name], scope.origin).value()
            for start, rows in weight.blocks():
                loss += float(np.square(made.rows(start, start + len(rows)) - rows, dtype=np.float64).sum())
                total += float(np.square(rows, dtype=np.float64).sum())
        share = (loss / total) ** 0.5 if total else 0.0
        scope.note(
            f"{len(names)} weights stored as {kind} have no such form here and were rounded to "
            f"{formats[names[0]]}: relative error {share:.2%}"
        )
