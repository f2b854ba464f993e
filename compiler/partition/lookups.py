"""Embeddings in integers beside an NPU that has no lookup in them: they are looked up on the CPU.

What a weight that two devices read costs is said in bytes, whoever has placed its readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ..ir.annotations import DEVICE
from ..ir.linears import Linear, linears
from ..ir.module import Module


def look_up_on_cpu(module: Module, deploy_device: str, kept: Callable[[str], bool]) -> list[str]:
    """Place quantised embeddings on the CPU, in every graph, but those that are `kept`, by name; notes that say so."""
    moved: dict[str, Linear] = {}
    for model in module.graphs.values():
        for linear in linears(module, model.graph):
            here = DEVICE.get(linear.node) in (None, deploy_device)
            if linear.kind == "gather" and linear.quant is not None and here and not kept(linear.name):
                DEVICE.set(linear.node, "cpu")
                moved[linear.name] = linear
    return [
        f"`{name}` is looked up on the CPU, in its integers ({linear.quant.format.describe()}): "
        f"the {deploy_device.upper()} has no lookup in a quantised table"
        for name, linear in moved.items()
        if linear.quant is not None
    ]


def lost_sharing(module: Module, deploy_device: str) -> Iterator[str]:
    """A note for each weight that ops of two devices share: it is stored once for each."""
    readers: dict[int, list[Linear]] = {}
    for linear in linears(module):
        readers.setdefault(id(linear.initializer), []).append(linear)
    for shared in readers.values():
        devices = {DEVICE.get(linear.node) or deploy_device for linear in shared}
        if len(devices) > 1:
            first, *others = [f"`{linear.name}`" for linear in shared]
            yield (
                f"{first} and {', '.join(others)} share a weight, and run on {' and '.join(sorted(devices))}: "
                f"it is stored for each, {_bytes(shared[0]) / 1e6:.2f} MB more"
            )


def _bytes(linear: Linear) -> int:
    """Of one copy: its integers and scales, or its floats in 16 bits."""
    if linear.quant is None:
        return 2 * math.prod(linear.shape)
    return linear.quant.format.size(linear.shape[0], math.prod(linear.shape[1:])) // 8
