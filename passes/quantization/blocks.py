"""Blocks of inputs that share a scale, and what to say of a weight [N, K] they do not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...compiler.diagnostics.diagnostic import Diagnostic, Label, Span
from ...compiler.diagnostics.wording import globs

BLOCKS = (16, 32, 64, 128)


def unmet(budget: float, least: float, origin: Span | None) -> Diagnostic:
    """E0459: `least` bits a weight is what the smallest formats take."""
    needed = math.ceil(100 * least) / 100
    return Diagnostic(
        "E0459",
        f"a budget of {budget:g} bits cannot be met: the smallest formats take {needed:g} bits, scales included",
        Label(origin) if origin else None,
        help=f"set `budget` to at least {needed:g} bits, or allow fewer `bits` or larger `blocks`",
    )


def indivisible(block: int, inputs: Mapping[str, int], origin: Span | None, several: bool = False) -> Diagnostic:
    """E0413 for the weights of `inputs`, name -> K; `several`: `block` is one of a `blocks` list."""
    (name, k), more = next(iter(inputs.items())), len(inputs) - 1
    like = f", nor the inputs of {more} more" if more else ""
    fitting = [size for size in BLOCKS if not any(k % size for k in inputs.values())]
    if several:
        use = f"leave {block} out of `blocks`, or keep such weights as they are"
    else:
        words = [*map(str, fitting), "channel"]
        use = f"use `block = {words[0]}`" + "".join(f" or `{word}`" for word in words[1:])
        use += ", or leave such weights as they are"
    return Diagnostic(
        "E0413",
        f"the weight of `{name}` has {k} inputs, which a block of {block} does not divide{like}",
        Label(origin, f"blocks of {block}") if origin else None,
        help=f"{use} with `except [{globs(inputs)}]`",
    )
