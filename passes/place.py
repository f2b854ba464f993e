"""Pin ops to the CPU or the NPU; the rest of the model stays on the device of its `deploy` line.

    node.metadata["edgec.device"] = cpu | npu

A linear takes its bias along, and what is computed from constants alone (a DequantizeLinear, the Transpose of a
weight) goes wherever its reader is when the model is cut into parts. Of several lines that match one op the last wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.ir.levels import Level
from ..compiler.ir.placement import PLACES
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import Pass, Scope
from ..compiler.plan.parameters import param

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..compiler.ir.module import Module


@dataclass(frozen=True)
class Place(Pass):
    """Pin ops to the CPU or the NPU."""

    name: ClassVar[str] = "place"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC, Level.COMPRESSED, Level.PLACED)
    leaves: ClassVar[Level | None] = Level.PLACED
    keeps_shapes: ClassVar[bool] = True

    device: str = param(doc="device on which the selected ops run", choices=PLACES)

    def demands(self) -> Demands:
        """The device of the matched ops."""
        return Demands(places=frozenset((self.device,)))

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many nodes were moved."""
        chosen = {id(n): n for node in module.nodes() if scope.selects(node.name or "") for n in _with_bias(node)}
        return sum(self._pin(node) for node in chosen.values())

    def _pin(self, node: ir.Node) -> bool:
        from ..compiler.ir.annotations import DEVICE

        moved = DEVICE.get(node) != self.device
        DEVICE.set(node, self.device)
        return moved


def _with_bias(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    readers = [use.node for use in node.outputs[0].uses()]
    if len(readers) == 1 and readers[0].name == f"{node.name}.bias_add":
        yield readers[0]
