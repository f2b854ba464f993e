"""Ops that the NPU has no form for run on the CPU: the model is cut around them, and the plan is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx_ir as ir

from ..ir.annotations import DEVICE, SHADOW
from ..ir.module import Module


def lacking_on_cpu(
    module: Module, deploy_device: str, lacking: Callable[[ir.Graph], Iterable[ir.Node]], kept: Callable[[str], bool]
) -> list[str]:
    """Place what `lacking` names on the CPU, in every graph, but ops that are `kept`, by name; the names, in order.

    Where nothing but constants would be left for the NPU nothing is moved: the model is then no model for it. Shadows
    are the CPU's already (`shadows.py`).
    """

    def here(node: ir.Node) -> bool:
        return DEVICE.get(node) in (None, deploy_device) and SHADOW.get(node) != "cpu"

    found: dict[ir.Node, None] = {}
    others = 0
    for model in module.graphs.values():
        found |= dict.fromkeys(node for node in lacking(model.graph) if here(node) and not kept(node.name or ""))
        others += sum(node not in found and here(node) for node in model.graph)
    for node in found if others else ():
        DEVICE.set(node, "cpu")
    return list(dict.fromkeys(f"{node.name} {node.op_type}" for node in found)) if others else []
