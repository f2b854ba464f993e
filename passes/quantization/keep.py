"""`method = keep`: a weight ships in the integers that its checkpoint stores.

stored as                                   ships as
q * scale                                   the same q and scale
(q - zero_point) * scale                    the same
q * scale + minimum                         the same, where the target stores a float minimum per block
groups of 256, 1024, …                      the same; blocks of 16 to 128 that divide a group repeat its scale
another grid, or a minimum without a place  rounded to the nearest grid of the same width, with a note of the loss
groups that no block divides; act-order     an error that names the weights
floats                                      stay so, with a note; an error where nothing selected has integers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...compiler.diagnostics.diagnostic import fail
from ...compiler.diagnostics.wording import quoted, some_of
from ...compiler.ir.annotations import FLOAT_WEIGHT, FORMAT, Transform
from ...compiler.ir.module import Module
from ...compiler.ir.stored_integers import StoredIntegers, stored_integers
from ...compiler.ir.weight_format import MINIMUM, WeightFormat
from ...compiler.ir.weights import Weight, derive
from ...compiler.pipeline.pass_interface import Scope
from .blocks import BLOCKS
from .rewrite import candidates, quantize_graph
from .round_to_nearest import QuantizedTensors, make

_SHOWN = 3
_ANY = WeightFormat(8, None, True, "keep")  # every linear and embedding can take it


def keep(module: Module, scope: Scope) -> int:
    """Quantise what the step selects with the integers of its source; the number of uses that changed."""
    found = candidates(module.main.graph, module, _ANY, scope)
    stored = {name: stored_integers(weight) for name, weight in found.items()}
    held = {name: integers for name, integers in stored.items() if integers is not None}
    floats = tuple(name for name in stored if name not in held)
    _say_floats(floats, module, scope, all_are=not held)
    scope = replace(scope, except_=(*scope.except_, *floats))
    _refuse_groups({name: (integers, found[name].dims[1]) for name, integers in held.items()}, module, scope)
    formats = {name: _format(integers, found[name].dims[1], scope) for name, integers in held.items()}

    def solver(weights: Mapping[str, Weight]) -> dict[str, QuantizedTensors]:
        made = {name: _kept(name, weight, formats[name]) for name, weight in weights.items() if _fits(weight, scope)}
        left = {name: weights[name] for name in weights.keys() - made.keys()}
        if scope.dry:
            kinds = sorted(_by_kind(left).items())
            scope.rounded += [f"{len(names)} weights stored as {kind}" for kind, names in kinds]
        else:
            _note_rounded(left, formats, scope)
        return made

    return quantize_graph(module.main.graph, module, lambda name: formats.get(name, _ANY), scope, solver)


def _format(stored: StoredIntegers, inputs: int, scope: Scope) -> WeightFormat:
    block = _block(stored, inputs)
    if stored.minimum is not None and scope.minimums:
        return WeightFormat(stored.bits, block, False, "keep", MINIMUM)
    return WeightFormat(stored.bits, block, stored.symmetric, "keep")


def _block(stored: StoredIntegers, inputs: int) -> int | None:
    """The largest block that lies in one group wherever it begins; None for a scale per output."""
    if stored.block >= inputs and stored.minimum is None:
        return None
    if stored.block in BLOCKS and inputs % stored.block == 0:
        return stored.block
    return next((block for block in reversed(BLOCKS) if stored.block % block == 0 and inputs % block == 0), 0)


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
    scale, zero_point, minimum = (
        None if part is None else _per_block(part, stored, format_.block, weight.dims[1])
        for part in (stored.scale, stored.zero_point, stored.minimum)
    )
    return QuantizedTensors(q, scale or stored.scale, zero_point, minimum)


def _per_block(part: Weight, stored: StoredIntegers, block: int | None, inputs: int) -> Weight:
    """`part` [N, groups] as [N, blocks]: each group's number for all blocks in it; [N] for a scale per output."""
    if block == stored.block:
        return part
    group_of = np.arange(0, inputs, block or inputs) // stored.block
    shape = (part.dims[0], len(group_of)) if block else (part.dims[0],)

    def rows(start: int, stop: int) -> np.ndarray:
        return part.rows(start, stop)[:, group_of].reshape(stop - start, *shape[1:])

    return derive(part.name, part.dtype, shape, rows, part, Transform.MEASURE, "per block")


def _say_floats(names: Sequence[str], module: Module, scope: Scope, all_are: bool) -> None:
    """Say which of the weights a line selects have no integers; fail if that is all of them."""
    if not names:
        return
    verb, it = ("has", "it") if len(names) == 1 else ("have", "them")
    message = f"{_listed(names)} of `{module.name}` {verb} no integers to keep: the checkpoint stores {it} in floats, "
    message += f"or an earlier line changed {it}"
    if not all_are:
        scope.note(f"{message}; what the line found is kept")
        return
    help = "`keep` is for what GGUF, GPTQ, AWQ and compressed-tensors files store as integers; leave these out with "
    fail("E0421", message, scope.origin, help=f"{help}`except`, or choose another method")


def _refuse_groups(weights: Mapping[str, tuple[StoredIntegers, int]], module: Module, scope: Scope) -> None:
    """Fail for integers whose groups are no blocks: scattered over the inputs, or of a size that no block divides."""
    scattered = [name for name, (stored, _) in weights.items() if not stored.ordered]
    odd = [name for name, (stored, inputs) in weights.items() if _block(stored, inputs) == 0]
    for names in (scattered, odd):
        if not names:
            continue
        stored, inputs = weights[names[0]]
        if names is odd:
            sizes = ", ".join(map(str, BLOCKS))
            why = f"no block of {sizes} divides groups of {stored.block} and {inputs} inputs"
        else:
            why = "the inputs of a group do not lie beside each other (act-order, `desc_act`), as engines want them"
        message = f"the integers of {_listed(names)} of `{module.name}` ({stored.name}) cannot be kept: {why}"
        help = (
            "quantise the floats they stand for, `quantize (weights = int8, block = 32)` loses least; or start from a "
        )
        help += "checkpoint made without act-order, in groups of 32, 64 or 128"
        fail("E0422", message, scope.origin, help=help)


def _listed(names: Sequence[str]) -> str:
    return some_of(quoted(names), _SHOWN)


def _by_kind(weights: Mapping[str, Weight]) -> dict[str, list[str]]:
    """Stored type -> the weights that are stored so, in alphabetical order."""
    kinds: dict[str, list[str]] = {}
    for name, weight in sorted(weights.items()):
        stored = stored_integers(weight)
        kinds.setdefault(stored.name if stored else "", []).append(name)
    return kinds


def _note_rounded(weights: Mapping[str, Weight], formats: Mapping[str, WeightFormat], scope: Scope) -> None:
    """Say of each stored type that has no place in the target what rounding it costs."""
    for kind, names in _by_kind(weights).items():
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
