"""The graph side of `sparsify`: which weights are taken, masks by size, and zeros that are there already.

magnitude   of each group the units of largest sum of squares are kept, row by row as the weight is read
keep        nothing is changed: the numbers are read and compared with the pattern
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...compiler.diagnostics.diagnostic import PlanError, fail
from ...compiler.ir.annotations import Transform
from ...compiler.ir.fold_into_weights import set_weight, untie
from ...compiler.ir.linears import FLOATS, Linear, as_linear, linears
from ...compiler.ir.module import Module
from ...compiler.ir.sparse_pattern import Sparsity
from ...compiler.ir.sparsity import SPARSITY, first_unlike
from ...compiler.ir.stored_integers import STORED, stored_integers
from ...compiler.ir.weights import DryWeight, Weight, derive, transpose
from ...compiler.pipeline.pass_interface import Scope
from .groups import indivisible

_NORMS = ("RMSNormalization", "LayerNormalization", "SimplifiedLayerNormalization", "GroupNormalization")


def taken(module: Module, sparsity: Sparsity, scope: Scope) -> Iterator[Linear]:
    """The linears that the line selects and that can be sparse; the others are skipped, with the reason."""
    _skip_norms(module, scope)
    wrong: dict[str, int] = {}
    found, sparse = [], False
    for linear in linears(module):
        if not scope.selects(linear.name):
            continue
        why = _refusal(linear)
        if why is not None:
            scope.skip(linear.node, why)
            if scope.on is not None:
                scope.note(f"`{linear.name}` is left dense: {why}")
        elif linear.stored is not None and SPARSITY.get(linear.stored) == placed(sparsity, linear):
            sparse = True
            scope.skip(linear.node, f"its weight is {sparsity} already")
        elif linear.shape[1] % sparsity.group:
            wrong[linear.name] = linear.shape[1]
        else:
            found.append(linear.node)
    if wrong:
        raise PlanError(indivisible(sparsity, wrong, scope.origin))
    if scope.on is not None and scope.skips and not (found or sparse):
        _refuse_nothing(scope)
    for node in found:  # as it is when its turn comes: what was done to another may have untied it
        if (linear := as_linear(node)) is not None:
            yield linear


def _refusal(linear: Linear) -> str | None:
    if linear.kind == "gather":
        return "an embedding is looked up by rows: nothing is multiplied that zeros would save"
    if linear.kind == "conv":
        return "it is a convolution: patterns are along the inputs of linears"
    if linear.kind == "own":
        return f"it is a {linear.node.op_type}, whose weight is in the form that op wants"
    if linear.stored is None:
        return "its weight is quantised in the source model already"
    if linear.stored.dtype not in FLOATS:
        return f"its weight is {linear.stored.dtype.name.lower()}, not float32 or float16"
    return None


def _refuse_nothing(scope: Scope) -> None:
    """A line whose every op is left alone is a mistake, like one that matches none."""
    named, why = " and ".join(f"`{glob}`" for glob in scope.on or ()), scope.skips[0].reason
    help = "name linears: `edgec inspect MODEL` lists the names of all ops"
    fail("E0403", f"{named}: `sparsify` works on none of these ops: {why}", scope.origin, help=help)


def _skip_norms(module: Module, scope: Scope) -> None:
    """A glob may match a norm, which is no mistake where it matches linears too."""
    for node in module.nodes() if scope.on is not None else ():
        if node.op_type in _NORMS and scope.selects(node.name or ""):
            why = "a norm's gain is a number for each channel, of which none can be left out"
            scope.skip(node, why)
            scope.note(f"`{node.name}` is left as it is: {why}")


def placed(sparsity: Sparsity, linear: Linear) -> Sparsity:
    """The pattern along the axis on which the linear's stored tensor has its inputs."""
    return sparsity if linear.rows_are_outputs else sparsity.turned()


def own(module: Module, linear: Linear, scope: Scope) -> Linear:
    """`linear` with a weight that no other op reads: an embedding tied to it stays as it is."""
    made = untie(module, linear)
    if made.value is not linear.value and made.stored is not None:
        size = made.stored.nbytes / 2**20
        scope.note(f"`{linear.name}` no longer shares its weight: {size:.2f} MiB more in float32")
    return made


def prune(module: Module, sparsity: Sparsity, scope: Scope) -> int:
    """Keep the largest weights of each group; the number of weights that were pruned."""
    changes, kept, all_ = 0, 0.0, 0.0
    for linear in taken(module, sparsity, scope):
        linear = own(module, linear, scope)
        if linear.stored is None:
            raise ValueError(f"`{linear.name}` has no float weight")
        along = placed(sparsity, linear)
        made = by_size(linear.stored, along)
        if not scope.dry:
            for start, rows in linear.stored.blocks(multiple=_multiple(along)):
                all_ += float(np.square(rows, dtype=np.float64).sum())
                kept += float(np.square(made.rows(start, start + len(rows)), dtype=np.float64).sum())
        set_weight(linear.value, made)
        changes += 1
    if all_:
        scope.note(
            f"{changes} weights are {sparsity} by magnitude: {1 - kept / all_:.1%} of their squares are lost, and "
            "nothing makes up for it"
        )
    return changes


@dataclass(frozen=True)
class How:
    """The settings of a calibrated line."""

    method: str
    swaps: bool
    recover: str
    permute: bool


def calibrated(module: Module, sparsity: Sparsity, how: How, scope: Scope) -> int:
    """Prune on the plan's calibration text; the number of weights that were pruned."""
    if module.arch is None:
        message = f"`{module.name}` is no decoder that edgec built: weights are pruned on text in decoders only"
        fail("E0455", message, scope.origin, help="use `method = magnitude`, which needs no text")
    chosen = [own(module, linear, scope) for linear in taken(module, sparsity, scope)]
    wanted = {linear.name: linear.weight() for linear in chosen}
    if scope.dry:
        made = {name: by_size(weight, sparsity) for name, weight in wanted.items()}  # any with the pattern
    elif wanted:
        from .solve import Settings, permuted, solve

        if how.permute:
            permuted(module, wanted, sparsity, scope)
            found = {linear.name: linear for linear in linears(module)}
            wanted = {name: found[name].weight() for name in wanted}
        made = solve(module, wanted, Settings(sparsity, how.method, how.swaps, how.recover), scope)
    else:
        return 0
    for linear in chosen:
        weight = made[linear.name]
        set_weight(linear.value, weight if linear.rows_are_outputs else transpose(weight))
    return len(chosen)


def by_size(weight: Weight, sparsity: Sparsity) -> Weight:
    """`weight` with the units of largest sum of squares in each group kept, as it is read."""
    units = np.array(sparsity.units)

    def rows(start: int, stop: int) -> np.ndarray:
        if sparsity.axis == 1:
            return _largest(weight.rows(start, stop), units, sparsity)
        first, last = start - start % sparsity.group, -(-stop // sparsity.group) * sparsity.group
        made = _largest(weight.rows(first, last).T, units, sparsity).T
        return made[start - first : stop - first]

    made = derive(weight.name, weight.dtype, weight.dims, rows, weight, Transform.PRUNE, f"{sparsity} by magnitude")
    SPARSITY.set(made, sparsity)
    return made


def _largest(w: np.ndarray, units: np.ndarray, sparsity: Sparsity) -> np.ndarray:
    groups = w.reshape(len(w), -1, sparsity.group)
    sizes = np.square(groups[:, :, units], dtype=np.float32).sum(-1)  # [N, K / group, units]
    order = np.argsort(-sizes, axis=-1, kind="stable")[..., sparsity.keep :]
    dropped = np.zeros(sizes.shape, bool)
    np.put_along_axis(dropped, order, True, axis=-1)
    mask = np.ones(groups.shape, bool)
    for i, unit in enumerate(units):
        mask[:, :, unit] = ~dropped[:, :, i, None]
    return np.where(mask, groups, groups.dtype.type(0)).reshape(w.shape)


def keep(module: Module, sparsity: Sparsity, scope: Scope) -> int:
    """State the pattern of weights that have it; the first that does not is an error."""
    changes = 0
    for linear in taken(module, sparsity, scope):
        if linear.stored is None:
            raise ValueError(f"`{linear.name}` has no float weight")
        along = placed(sparsity, linear)
        held = linear.stored
        if not isinstance(held, DryWeight) and (found := first_unlike(held, along)) is not None:
            fail(
                "E0424",
                f"`{linear.name}` of `{module.name}` is not {sparsity}: {found}",
                scope.origin,
                help=f'leave it out with `except ["{linear.name}"]`, or prune it with `method = magnitude`',
            )
        made = derive(held.name, held.dtype, held.dims, held.rows, held, Transform.UNTIE, f"{sparsity} as it is")
        SPARSITY.set(made, along)
        if (integers := stored_integers(held)) is not None:
            STORED.set(made, integers)  # the same numbers: what they are stored in can still be kept
        set_weight(linear.value, made)
        changes += 1
    if changes and not scope.dry:
        scope.note(f"{changes} weights were read and are {sparsity}")
    return changes


def _multiple(sparsity: Sparsity) -> int:
    return 1 if sparsity.axis == 1 else sparsity.group
