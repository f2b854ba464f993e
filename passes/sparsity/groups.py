"""What to say of weights [N, K] whose inputs the groups of a pattern do not divide."""

from __future__ import annotations

from collections.abc import Mapping

from ...compiler.diagnostics.diagnostic import Diagnostic, Label, Span
from ...compiler.diagnostics.wording import globs
from ...compiler.ir.sparse_pattern import Sparsity


def indivisible(sparsity: Sparsity, inputs: Mapping[str, int], origin: Span | None) -> Diagnostic:
    """E0423 for the weights of `inputs`, name -> K."""
    (name, k), more = next(iter(inputs.items())), len(inputs) - 1
    like = f", nor the inputs of {more} more" if more else ""
    return Diagnostic(
        "E0423",
        f"the weight of `{name}` has {k} inputs, which groups of {sparsity.group} do not divide{like}",
        Label(origin, f"groups of {sparsity.group}") if origin else None,
        help=f"leave such weights as they are with `except [{globs(inputs)}]`",
    )
