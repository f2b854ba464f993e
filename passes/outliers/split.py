"""Split linears exactly around what their inputs hold beyond a range.

    y = x W^T   ->   y = clip(x) W^T + (x - clip(x))[hot] W[:, hot]^T        equal where only hot channels are clipped

    x -+- Clip -------------- MatMul W ---------------+- Add -- y
       +- Gather hot -+-------- Sub - MatMul W[:, hot] -+             the second row on the CPU
                      +- Clip --+

Linears that read one input share its Clip, Gather and Sub. What the integer pair behind Clip can hold is exactly its
range (`quantization/activation_pairs.py`), so that rounding and clipping are one step on the NPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...compiler.ir.activation_encodings import Encoding
from ...compiler.ir.annotations import FLOAT_WEIGHT, SHADOW, Transform
from ...compiler.ir.linears import Linear
from ...compiler.ir.module import initializer
from ...compiler.ir.weights import Weight, as_weight, cast, derive, from_array


@dataclass(frozen=True)
class Split:
    """How linears of one input are split: the range's ends, and the channels that are corrected (none: clipped)."""

    low: float
    high: float
    hot: tuple[int, ...] = ()

    @property
    def encoding(self) -> Encoding:
        """The integers whose ends are those of the Clip."""
        return Encoding.over(self.low, self.high, "uint8")


def split(graph: ir.Graph, linears: Sequence[Linear], how: Split, base: str) -> None:
    """Split `linears`, which read one value; new nodes are named `<base>.clip`, `.hot`, …"""
    x = linears[0].node.inputs[0]
    if x is None or any(linear.node.inputs[0] is not x for linear in linears):
        raise ValueError("linears that are split together read one value")
    if how.hot:
        beyond = _beyond(graph, x, how, base, linears[0].node)
        for linear in linears:
            _add(graph, linear, beyond, how.hot)
    clipped = _node(graph, "Clip", [x, *_ends(graph, how, base)], f"{base}.clip", x, linears[0].node)
    SHADOW.set(clipped, "clip")
    for linear in linears:
        linear.node.replace_input_with(0, clipped.outputs[0])


def hot_rows(linear: Linear, hot: Sequence[int]) -> Weight:
    """The float weights [N, h] of the inputs `hot`, from the weight that integers were made of."""
    source = FLOAT_WEIGHT.get(linear.quant.q) if linear.quant is not None else None
    held = linear.weight() if source is None else as_weight(source)
    columns = np.asarray(hot)
    whole = cast(held, ir.DataType.FLOAT)
    dims = (linear.shape[0], len(columns))
    how = f"{len(columns)} of {linear.shape[1]} inputs"
    name = f"{linear.name}.shadow.weight"
    return derive(
        name, ir.DataType.FLOAT, dims, lambda a, b: whole.rows(a, b)[:, columns], whole, Transform.MEASURE, how
    )


def _beyond(graph: ir.Graph, x: ir.Value, how: Split, base: str, before: ir.Node) -> ir.Value:
    """(x - clip(x))[hot]"""
    shape = ir.Shape([*list(x.shape or ())[:-1], len(how.hot)])
    index = initializer(graph, f"{base}.hot.channels", from_array("", np.array(how.hot, np.int64)))
    like = ir.Value(type=x.type, shape=shape)
    gathered = _node(graph, "Gather", [x, index], f"{base}.hot", like, before, axis=len(shape) - 1)
    inside = _node(graph, "Clip", [gathered.outputs[0], *_ends(graph, how, base)], f"{base}.hot_inside", like, before)
    read = [gathered.outputs[0], inside.outputs[0]]
    beyond = _node(graph, "Sub", read, f"{base}.beyond", like, before)
    for node in (gathered, inside, beyond):
        SHADOW.set(node, "cpu")
    return beyond.outputs[0]


def _add(graph: ir.Graph, linear: Linear, beyond: ir.Value, hot: Sequence[int]) -> None:
    """Add what the hot channels give beyond the range to the output of `linear`."""
    rows = hot_rows(linear, hot)
    held = initializer(graph, rows.name, rows)
    old, node, name = linear.node.outputs[0], linear.node, f"{linear.name}.shadow"
    like = ir.Value(type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(rows.dims[::-1]))
    turned = _node(graph, "Transpose", [held], f"{name}.turned", like, node, perm=[1, 0])
    made = _node(graph, "MatMul", [beyond, turned.outputs[0]], name, old, node)
    SHADOW.set(made, "cpu")
    uses = [(use.node, use.idx) for use in old.uses()]
    whole = ir.Value(name=f"{name}.whole", type=old.type, shape=old.shape)
    add = ir.Node("", "Add", [old, made.outputs[0]], outputs=[whole], name=f"{name}.add")
    graph.insert_after(node, add)
    SHADOW.set(node, "main")
    SHADOW.set(add, "sum")
    for reader, index in uses:
        reader.replace_input_with(index, whole)
    if old.is_graph_output():  # the interface keeps its name
        whole.name, old.name = old.name, f"{name}.main"
        for index, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[index] = whole


def _ends(graph: ir.Graph, how: Split, base: str) -> list[ir.Value]:
    ends = {"low": how.encoding.low, "high": how.encoding.high}
    return [initializer(graph, f"{base}.{key}", from_array("", np.array(end, np.float32))) for key, end in ends.items()]


def _node(
    graph: ir.Graph,
    op: str,
    inputs: Sequence[ir.Value],
    name: str,
    like: ir.Value,
    before: ir.Node,
    **attributes: int | list[int],
) -> ir.Node:
    output = ir.Value(name=f"{name}.out", type=like.type, shape=like.shape)
    node = ir.node(op, inputs, attributes, outputs=[output], name=name)
    graph.insert_before(before, node)
    return node
