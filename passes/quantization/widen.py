"""Give the linears that lose most by 8-bit activations 16 bits, up to a share of the weights that a line selects.

    bits = 8 + 8 * (weights of the wide linears) / (weights of all that the line selects)      on average a product

What each loses is measured (`rounding_losses.py`): a few linears, those that write or read what the first token
carries, lose most of it. An NPU multiplies 16-bit activations at about half the rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...compiler.diagnostics.diagnostic import PlanError, fail
from ...compiler.diagnostics.wording import count
from ...compiler.ir.annotations import ACTIVATIONS, WIDE
from ...compiler.ir.linears import Linear, linears
from ...compiler.ir.module import Module
from ...compiler.pipeline.demands import Demands
from ...compiler.pipeline.pass_interface import FiguresTable, Scope
from . import activation_pairs

_ENOUGH = 1e-4  # nats a token: what all others lose together is of no interest from there on


def widen(module: Module, share: float, scope: Scope) -> None:
    """Mark linears of the line as 16 bits; E0460 for a graph that is no decoder."""
    if module.arch is None:
        fail(
            "E0460",
            f"`wide` weighs linears by the next token's distribution, and `{module.name}` is no decoder",
            scope.origin,
            help="leave out `wide`, and name the ops in a line of their own: `quantize (…, activations = uint16) on …`",
        )
    found = [one for one in linears(module) if ACTIVATIONS.get(one.node) == "uint8" and scope.selects(one.name)]
    sizes = {one.name: one.shape[0] * one.shape[1] for one in found}
    losses = dict.fromkeys(sizes, 1.0) if scope.dry else _measured(module, found, scope)
    chosen = choose(losses, sizes, share)
    for one in found:
        if one.name in chosen:
            ACTIVATIONS.set(one.node, "uint16")
            WIDE.set(one.node, "uint16")
    if not scope.dry:
        _tell(losses, sizes, chosen, scope)


def choose(losses: Mapping[str, float], sizes: Mapping[str, int], share: float) -> list[str]:
    """The linears of the largest loss a weight whose weights are at most `share` of all `sizes`."""
    room, left = share * sum(sizes[name] for name in losses), sum(losses.values())
    chosen = []
    for name in sorted(losses, key=lambda name: -losses[name] / sizes[name]):
        if left > _ENOUGH and sizes[name] <= room:
            chosen.append(name)
            room, left = room - sizes[name], left - losses[name]
    return chosen


def _measured(module: Module, found: Sequence[Linear], scope: Scope) -> dict[str, float]:
    if problem := Demands(torch="wide").without_torch(scope.origin):
        raise PlanError(problem)
    from .rounding_losses import losses

    seen = activation_pairs.observe(module, scope)
    sides = activation_pairs.sides(module, seen, scope)
    made = losses(module, seen.ids, sides, scope.progress)
    return {one.name: made[one.node] for one in found if one.node in made}


def _tell(losses: Mapping[str, float], sizes: Mapping[str, int], chosen: Sequence[str], scope: Scope) -> None:
    whole, wide = sum(sizes.values()), sum(sizes[name] for name in chosen)
    every, saved = sum(losses.values()), sum(losses[name] for name in chosen)
    scope.note(
        f"wide: {count(len(chosen), 'linear')} of {len(sizes)}, {wide / whole:.1%} of the weights, have 16-bit "
        f"activations, {8 + 8 * wide / whole:.3g} bits on average; 8 bits would lose {every:.2g} nats a token without "
        f"them and lose {every - saved:.2g} with them"
    )
    rows = [
        (name, f"{1000 * losses[name]:.3f}", f"{sizes[name] / whole:.2%}", "16" if name in chosen else "8")
        for name in sorted(losses, key=lambda name: -losses[name] / sizes[name])
    ]
    title = "What 8-bit activations lose by linear, in thousandths of a nat a token; the dearest weights first"
    scope.table(FiguresTable(title, ("linear", "lost", "of the weights", "bits"), tuple(rows)))
