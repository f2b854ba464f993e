"""Shards of a decoder: consecutive layers in parts of their own, so that each can be loaded, and compiled, by itself.

    layers 0 .. L-1, bytes of each  --boundaries-->  the n consecutive groups whose largest is smallest

What lies before the layers (the embedding) belongs to the first shard, what lies behind them to the last. A node that
no layer and neither end owns follows what it reads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import onnx_ir as ir

from ..ir.annotations import DEVICE, SHARD
from ..ir.linears import linears
from ..ir.module import Module

_LAYER = re.compile(r"(?:^|[./])layers\.(\d+)\.")


def layer_of(name: str) -> int | None:
    """The layer that an op or a weight of this name belongs to; None: it is before, behind or beside them."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def layer_weights(module: Module, device: str) -> tuple[list[float], list[float]]:
    """About how many bytes the weights of each layer take as stored on `device`, and how many numbers they are.

    Embedding and head count to the first and the last layer; what is placed on another device does not.
    """
    layers = module.arch.layers if module.arch is not None else 0
    sizes, counts = [0.0] * layers, [0.0] * layers
    own = (one for one in linears(module) if (DEVICE.get(one.node) or device) == device)
    for linear in own if layers else ():
        at = layer_of(linear.name)
        if at is None:
            at = 0 if linear.kind == "gather" else layers - 1
        counts[min(at, layers - 1)] += math.prod(linear.shape)
        sizes[min(at, layers - 1)] += linear.stored_bytes(2.0)
    return sizes, counts


def boundaries(sizes: Sequence[float], groups: int) -> list[int]:
    """The first item of each of `groups` consecutive groups, none of them empty, whose largest sum is smallest."""
    low, high = max(sizes), sum(sizes)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_greedy(sizes, middle)) <= groups else (middle, high)
    starts = _greedy(sizes, high)
    while len(starts) < groups:  # fewer are enough for the bound: the largest that can be split is
        ends = [*starts[1:], len(sizes)]
        at = max(
            (i for i in range(len(starts)) if ends[i] - starts[i] > 1), key=lambda i: sum(sizes[starts[i] : ends[i]])
        )
        starts.insert(at + 1, _halved(sizes, starts[at], ends[at]))
    return starts


def _greedy(sizes: Sequence[float], most: float) -> list[int]:
    starts, room = [0], most
    for i, size in enumerate(sizes):
        if size > room * (1 + 1e-9) and i > starts[-1]:
            starts.append(i)
            room = most
        room -= size
    return starts


def _halved(sizes: Sequence[float], start: int, end: int) -> int:
    return min(range(start + 1, end), key=lambda cut: abs(sum(sizes[start:cut]) - sum(sizes[cut:end])))


def mark_shards(module: Module, device: str, starts: Sequence[int]) -> None:
    """Write the shard of every op of `module` that runs on `device`: `starts[i]` is the first layer of shard i."""
    last = len(starts) - 1
    for model in module.graphs.values():
        of: dict[ir.Node, int] = {}
        nodes = list(model.graph)
        for node in nodes:
            layer = layer_of(node.name or "")
            read = [of[p] for value in node.inputs if value is not None and (p := value.producer()) in of]
            if layer is not None:
                of[node] = sum(start <= layer for start in starts) - 1
            elif read:
                of[node] = max(read)  # behind what it reads: the norm and the head behind the last layer
        for node in reversed(nodes):  # what reads nothing of a shard goes with its first reader
            readers = [of[use.node] for value in node.outputs for use in value.uses() if use.node in of]
            if node not in of:
                of[node] = min(readers, default=0)
        for node in nodes:
            if (DEVICE.get(node) or device) == device:
                SHARD.set(node, min(of[node], last))
