"""Where each node of a graph runs: a device, a shard on it, and an engine if it is not the model's own.

    placement(node) = (edgec.device or the deploy line's, edgec.shard or 0, edgec.engine or none)   of its metadata

Nodes of one placement share a part where they can; nodes of two placements never do. A shard therefore keeps ops of one
device apart: to load them as files of their own, or to let other parts run beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx_ir as ir

from ..diagnostics.diagnostic import fail
from ..ir.annotations import DEVICE, ENGINE, SHARD
from ..ir.module import Module
from ..ir.placement import PLACES


class Placement(NamedTuple):
    """A device, a shard on it, and the target that emits for it where that is not the model's own."""

    device: str
    shard: int = 0
    target: str = ""


def placements(module: Module, nodes: Sequence[ir.Node], deploy_device: str) -> list[Placement]:
    """The placement of each node of a graph of `module`; E0501, E0502 or E0506 for one that cannot be.

    `deploy_device`: the device of nodes that carry none.
    """
    return [_checked(module, node, deploy_device) for node in nodes]


def _checked(module: Module, node: ir.Node, deploy_device: str) -> Placement:
    device = DEVICE.get(node) or deploy_device
    if device not in PLACES:
        fail(
            "E0502",
            f"`{node.name}` of `{module.name}` is placed on `{device}`, which is no device",
            help=f"devices are {' and '.join(f'`{place}`' for place in PLACES)}",
        )
    if device == "npu" and deploy_device == "cpu":
        fail(
            "E0501",
            f"`{node.name}` is placed on the NPU, but `{module.name}` is deployed on the CPU",
            help=f"deploy `{module.name}` on npu and place on the CPU what should run there",
        )
    try:
        return Placement(device, SHARD.get(node) or 0, ENGINE.get(node) or "")
    except ValueError:
        fail(
            "E0506",
            f"`{node.name}` of `{module.name}` is in shard `{node.metadata_props[SHARD.key]}`, which is no number",
            help=f"`{SHARD.key}` holds 0, 1, 2, …",
        )
