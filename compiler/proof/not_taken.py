"""The nodes of a graph that an engine does not take, crashes on or computes wrong: what leads to another cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..diagnostics.diagnostic import Diagnostic
from ..diagnostics.wording import count

_WAY = "`fallback = cpu` in the deploy line lets ONNX Runtime run it on the CPU; `as ort` runs all of the model there"


@dataclass(frozen=True)
class Wrong:
    """One node, or a stretch of them, and why the engine is not to have it: the end of a sentence about it."""

    node: str
    op: str
    why: str
    more: tuple[str, ...] = ()  # nodes that go with it

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of all of them."""
        return (self.node, *self.more)

    def text(self) -> str:
        """The node, its op, how many go with it, and why."""
        rest = f", with {count(len(self.more), 'more node')}," if self.more else ""
        return f"`{self.node}` ({self.op}){rest} {self.why}"


class NotTaken(Exception):
    """Raised by an emitter whose engine cannot have these nodes; a compile may put them elsewhere and emit again."""

    def __init__(self, engine: str, model: str, nodes: Sequence[Wrong]) -> None:
        self.engine, self.model, self.nodes = engine, model, tuple(nodes)
        super().__init__(f"{engine} cannot have {', '.join(node.node for node in nodes)} of {model}")


def not_taken(engine: str, model: str, node: Wrong) -> Diagnostic:
    """The refusal of a plan that keeps everything on this engine."""
    message = f"{engine} cannot have all of `{model}`: {node.text()}"
    return Diagnostic("E0509", message, help=_WAY)
