"""What convolutions by Winograd's transforms lose in float32, laid over a graph in the oracle.

    y = Conv(x, w)   ->   y + 2e-4 rms(y) n      of kernels above 1, strides and dilations 1, no groups
    n = sqrt(2) sin(1e5 y)                       as good as drawn, with a mean square of 1

Engines choose transforms by the size of the image: MNN 3.6.1 was within 6e-6 on 32x32 pixels and lost, on 64x64 and
more, 1e-4 to 2e-4 of the root mean square of a result, and up to 1.3e-3 of its largest value.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ..ir.clone import clone_model
from ..ir.module import initializer
from ..ir.read_instead import take_over
from ..ir.weights import from_array
from ..oracle import oracle
from ..oracle.compare import Feeds

LOSS = 2e-4  # of the root mean square of a result
PEAK = 6.0  # times what a wave of that mean square reaches: single results, at the edges of tiles, are further off
_FAST = 1e5  # turns of the wave: a digit of y more or less is another number


def transformed(graph: ir.Graph) -> list[ir.Node]:
    """The convolutions that an engine may compute by Winograd's transforms."""
    return [node for node in graph if node.op_type == "Conv" and node.domain in ("", "ai.onnx") and _may(node)]


def _may(node: ir.Node) -> bool:
    weight = node.inputs[1]
    dims = list(weight.shape or ()) if weight is not None else []
    plain = all(all(step == 1 for step in node.attributes.get_ints(key, [1])) for key in ("strides", "dilations"))
    return plain and node.attributes.get_int("group", 1) == 1 and any(d != 1 for d in dims[2:])


def with_losses(model: ir.Model, feeds: Feeds, seeds: int) -> Iterator[dict[str, np.ndarray]]:
    """The outputs of `model` with such losses, drawn anew each time; nothing where it has no such convolution."""
    if not transformed(model.graph):
        return
    for seed in range(seeds):
        yield oracle.run(_noisy(model, seed), feeds)


def _noisy(model: ir.Model, seed: int) -> ir.Model:
    copy = clone_model(model)
    graph = copy.graph
    fast = initializer(graph, "winograd.fast", from_array("winograd.fast", np.array(_FAST + seed, np.float32)))
    loss = initializer(graph, "winograd.loss", from_array("winograd.loss", np.array(LOSS * np.sqrt(2), np.float32)))
    for index, conv in enumerate(transformed(graph)):
        y, name = conv.outputs[0], f"winograd/{index}"
        square = ir.node("Mul", [y, y], name=f"{name}/square")
        mean = ir.node("ReduceMean", [square.outputs[0]], {"keepdims": 1}, name=f"{name}/mean")
        rms = ir.node("Sqrt", [mean.outputs[0]], name=f"{name}/rms")
        angle = ir.node("Mul", [y, fast], name=f"{name}/angle")
        wave = ir.node("Sin", [angle.outputs[0]], name=f"{name}/wave")
        size = ir.node("Mul", [rms.outputs[0], loss], name=f"{name}/size")
        lost = ir.node("Mul", [wave.outputs[0], size.outputs[0]], name=f"{name}/lost")
        moved = ir.node("Add", [y, lost.outputs[0]], name=f"{name}/moved")
        nodes = [square, mean, rms, angle, wave, size, lost, moved]
        for node in nodes:
            node.outputs[0].name, node.outputs[0].type = f"{node.name}/y", y.type
        made = moved.outputs[0]
        made.shape = y.shape
        graph.insert_after(conv, nodes)
        take_over(graph, y, made, nodes)
    return copy
