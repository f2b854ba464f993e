"""Put weights of one kind of matrix beside each other in the bundle's file, layer after layer, each on its own page.

    as it comes   L0.q L0.k L0.v … L0.down  L1.q L1.k …        a layer is read whole
    by_kind       q: L0 L1 L2 …   k: L0 L1 L2 …   …            a kind is read over consecutive layers at once

A runtime that keeps few weights in memory loads the same rows of one kind for several layers in one read (ActiveFlow,
arXiv 2504.08378). Numbers do not change; the manifest has an index of where each kind and layer lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.ir.levels import Level
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import Pass, Scope
from ..compiler.plan.parameters import param

if TYPE_CHECKING:
    from ..compiler.ir.module import Module


@dataclass(frozen=True)
class Layout(Pass):
    """Choose the order in which weights lie in the bundle's file."""

    name: ClassVar[str] = "layout"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC, Level.COMPRESSED, Level.PLACED, Level.STATIC)
    selects: ClassVar[bool] = False
    keeps_shapes: ClassVar[bool] = True

    order: str = param(
        doc="by_kind: weights of one kind of matrix across layers beside each other, on pages, with an index in the "
        "manifest",
        choices=("by_kind",),
    )

    def demands(self) -> Demands:
        """A target that orders its file so."""
        return Demands(order=self.order)

    def run(self, module: Module, scope: Scope) -> int:
        """Return 1 where the order was another one."""
        from ..compiler.ir.annotations import ORDER

        changed = [model for model in module.graphs.values() if ORDER.get(model) != self.order]
        for model in changed:
            ORDER.set(model, self.order)
        return int(bool(changed))
