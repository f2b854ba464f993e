"""Refusals collected, not raised one by one: a lowering goes on behind a node it has no form for.

    rule(node) raises Refused    ->    noted, and the node's results get a stand-in    ->    the next node

What may be refused only because it reads such a stand-in (`Refusal.alone` is false) is a consequence and is not told.
Refusals that differ in nothing but the node are one diagnostic: ``28 nodes like `layers.*.mlp.down_proj` ``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from ..diagnostics.diagnostic import Diagnostic, Label
from ..diagnostics.wording import join_or, of_any_layer
from .capabilities import Cause, Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

    from .conformance.op_class import Use

_SHOWN = 20  # patterns of names in one diagnostic; names that differ in numbers only are one


class Refused(Exception):
    """Raised by a rule of a lowering for the node at hand; the loop over the nodes catches it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def refuse(
    code: str,
    message: str,
    node: str = "",
    help: str | None = None,
    cause: Cause = "place",
    alone: bool = True,
    unproven: tuple[Use, ...] = (),
) -> NoReturn:
    """Raise `Refused`; `{}` in `message` is the node, `{on}` in `help` its name as a plan quotes it."""
    raise Refused(Refusal(code, message, node, help, cause, alone, unproven))


class Refusals:
    """What one walk over a graph has refused so far."""

    def __init__(self) -> None:
        self.found: list[Refusal] = []
        self._stand_ins: set[ir.Value] = set()

    def add(self, node: ir.Node, refusal: Refusal) -> None:
        """Note that `node` is refused, unless that may follow from what a refused node would have made."""
        if refusal.alone or not any(value in self._stand_ins for value in node.inputs if value is not None):
            self.found.append(refusal)
        self._stand_ins.update(node.outputs)


def grouped(refusals: Iterable[Refusal], at: Label | None = None, also: tuple[Label, ...] = ()) -> list[Diagnostic]:
    """One diagnostic for each kind of refusal, in the order they were met."""
    kinds: dict[Hashable, list[Refusal]] = {}
    for one in refusals:
        kinds.setdefault((one.code, one.message, one.help), []).append(one)
    return [_diagnostic(one[0], list(dict.fromkeys(r.node for r in one)), at, also) for one in kinds.values()]


def _diagnostic(first: Refusal, nodes: Sequence[str], at: Label | None, also: tuple[Label, ...]) -> Diagnostic:
    patterns = _patterns(nodes)
    subject = f"`{nodes[0]}`" if len(nodes) == 1 else f"{len(nodes)} nodes like {_listed(patterns)}"
    quoted = [f'"{pattern}"' for pattern in patterns]
    on = quoted[0] if len(quoted) == 1 else f"[{', '.join(quoted)}]"
    message = first.message.replace("{}", subject)
    return Diagnostic(first.code, message, at, also, first.help and first.help.replace("{on}", on))


def _patterns(nodes: Sequence[str]) -> list[str]:
    """`layers.*.mlp.up_proj` for names that differ in numbers only; a name alone of its kind as it is."""
    kinds: dict[str, list[str]] = {}
    for node in nodes:
        kinds.setdefault(of_any_layer(node), []).append(node)
    return [kind if len(names) > 1 else names[0] for kind, names in kinds.items()]


def _listed(patterns: Sequence[str]) -> str:
    shown = [f"`{pattern}`" for pattern in patterns[:_SHOWN]]
    more = len(patterns) - len(shown)
    return join_or([*shown, f"{more} more kinds"] if more else shown, "and")
