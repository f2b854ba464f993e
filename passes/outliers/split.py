"""Split linears exactly around what their inputs hold beyond a range.

    y = x W^T   ->   y = clip(x) W^T + (x - clip(x))[hot] W[:, hot]^T        equal where only hot channels are clipped

    x -+- Clip -------------- MatMul W ---------------+- Add -- y
       +- Gather hot -+-------- Sub - MatMul W[:, hot] -+             the second row on the CPU
                      +- Clip --+                                     and with it rare channels (`rare.py`)

Linears that read one input share its Clip, Gather and Sub. With `outputs` a linear's own result is clipped too, and
what its hot channels have beyond that range is computed again from their float rows and added by the same sum. What the
integer pair behind a Clip can hold is exactly its range (`quantization/activation_pairs.py`), so that rounding and
clipping are one step on the NPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...compiler.ir.activation_encodings import Encoding
from ...compiler.ir.annotations import FLOAT_WEIGHT, SHADOW, Transform
from ...compiler.ir.linears import Linear
from ...compiler.ir.module import initializer
from ...compiler.ir.read_instead import read_instead
from ...compiler.ir.weights import Weight, as_weight, cast, derive, from_array
from .new_nodes import cpu_node, node_before
from .rare import RareChannels


@dataclass(frozen=True)
class Split:
    """How linears of one input are split: the range's ends, and the channels that are corrected (none: clipped)."""

    low: float
    high: float
    hot: tuple[int, ...] = ()
    rare: int = 0  # further channels that are corrected in each call, those of the largest values beyond the range

    @property
    def encoding(self) -> Encoding:
        """The integers whose ends are those of the Clip."""
        return Encoding.over(self.low, self.high, "uint8")


def split(
    graph: ir.Graph, linears: Sequence[Linear], how: Split, base: str, outputs: Mapping[str, Split] | None = None
) -> None:
    """Split `linears`, which read one value; new nodes are named `<base>.clip`, `.hot`, …

    `outputs`: the ranges that outputs are clipped to, by linear, and the channels that are computed again.
    """
    x = linears[0].node.inputs[0]
    if x is None or any(linear.node.inputs[0] is not x for linear in linears):
        raise ValueError("linears that are split together read one value")
    before = linears[0].node
    beyond = _beyond(graph, x, how, base, before) if how.hot else None
    rare = RareChannels(graph, x, how.encoding, how.hot, how.rare, base, before) if how.hot and how.rare else None
    for linear in linears:
        own = (outputs or {}).get(linear.name)
        corrections = _corrections(graph, linear, beyond, rare, how, own)
        made = _shadow(graph, linear, x, corrections, own)
        if made is not None:
            _add(graph, linear, made)
        if own is not None and not linear.node.outputs[0].is_graph_output():
            _clip_output(graph, linear, own)
    clipped = node_before(graph, "Clip", [x, *_ends(graph, how, base)], f"{base}.clip", x, linears[0].node)
    SHADOW.set(clipped, "clip")
    for linear in linears:
        linear.node.replace_input_with(0, clipped.outputs[0])


def hot_rows(linear: Linear, hot: Sequence[int]) -> Weight:
    """The float weights [N, h] of the inputs `hot`, from the weight that integers were made of."""
    columns = np.asarray(hot)
    whole = _float_weight(linear)
    dims = (linear.shape[0], len(columns))
    how = f"{len(columns)} of {linear.shape[1]} inputs"
    name = f"{linear.name}.shadow.weight"
    return derive(
        name, ir.DataType.FLOAT, dims, lambda a, b: whole.rows(a, b)[:, columns], whole, Transform.MEASURE, how
    )


def _float_weight(linear: Linear) -> Weight:
    source = FLOAT_WEIGHT.get(linear.quant.q) if linear.quant is not None else None
    return cast(linear.weight() if source is None else as_weight(source), ir.DataType.FLOAT)


def _beyond(graph: ir.Graph, x: ir.Value, how: Split, base: str, before: ir.Node) -> ir.Value:
    """(x - clip(x))[hot]"""
    shape = ir.Shape([*list(x.shape or ())[:-1], len(how.hot)])
    index = initializer(graph, f"{base}.hot.channels", from_array("", np.array(how.hot, np.int64)))
    like = ir.Value(type=x.type, shape=shape)
    gathered = cpu_node(graph, "Gather", [x, index], f"{base}.hot", like, before, axis=len(shape) - 1)
    ends = _ends(graph, how, base)
    inside = cpu_node(graph, "Clip", [gathered.outputs[0], *ends], f"{base}.hot_inside", like, before)
    read = [gathered.outputs[0], inside.outputs[0]]
    return cpu_node(graph, "Sub", read, f"{base}.beyond", like, before).outputs[0]


def _corrections(
    graph: ir.Graph,
    linear: Linear,
    beyond: ir.Value | None,
    rare: RareChannels | None,
    how: Split,
    output: Split | None,
) -> ir.Value | None:
    """What the input's hot channels and its rare ones add to a linear; None where it has none."""
    if beyond is None:
        return None
    name, node, like = f"{linear.name}.shadow", linear.node, linear.node.outputs[0]
    more = output is not None and bool(output.hot)
    last = f"{name}.input" if more else name
    made = _product(graph, beyond, hot_rows(linear, how.hot), last if rare is None else f"{name}.hot", like, node)
    if rare is None:
        return made
    summed = cpu_node(graph, "Add", [made, rare.product(linear, f"{name}.rare")], last, like, node)
    return summed.outputs[0]


def _shadow(
    graph: ir.Graph, linear: Linear, x: ir.Value, made: ir.Value | None, output: Split | None
) -> ir.Value | None:
    """What is added to a linear: `made` of its input, and of its own hot channels; None where it has neither."""
    name, node, like = f"{linear.name}.shadow", linear.node, linear.node.outputs[0]
    if output is None or not output.hot:
        return made
    again = _again(graph, linear, x, made, output)
    return again if made is None else cpu_node(graph, "Add", [made, again], name, like, node).outputs[0]


def _again(graph: ir.Graph, linear: Linear, x: ir.Value, made: ir.Value | None, how: Split) -> ir.Value:
    """What the hot channels of an output have beyond its range, [.., N] with zeros elsewhere.

    y = x W[hot, :]^T less what the input's shadow adds there: that is what the NPU's product would be.
    """
    name, node, n = f"{linear.name}.shadow", linear.node, linear.shape[0]
    shape = ir.Shape([*list(x.shape or ())[:-1], len(how.hot)])
    few = ir.Value(type=x.type, shape=shape)
    y = _product(graph, x, _output_rows(linear, how.hot), f"{name}.output", few, node)
    if made is not None:
        index = initializer(graph, f"{name}.output.channels", from_array("", np.array(how.hot, np.int64)))
        added = cpu_node(graph, "Gather", [made, index], f"{name}.added", few, node, axis=len(shape) - 1)
        y = cpu_node(graph, "Sub", [y, added.outputs[0]], f"{name}.less", few, node).outputs[0]
    inside = cpu_node(graph, "Clip", [y, *_ends(graph, how, f"{name}.output")], f"{name}.inside", few, node)
    over = cpu_node(graph, "Sub", [y, inside.outputs[0]], f"{name}.over", few, node)
    place = np.zeros((n, len(how.hot)), np.float32)
    place[list(how.hot), range(len(how.hot))] = 1
    last = f"{name}.place" if made is not None else name
    return _product(graph, over.outputs[0], from_array(f"{name}.place.weight", place), last, node.outputs[0], node)


def _output_rows(linear: Linear, hot: Sequence[int]) -> Weight:
    """The float weights [h, K] of the outputs `hot`."""
    whole = _float_weight(linear)
    rows = list(hot)

    def read(start: int, stop: int) -> np.ndarray:
        return np.concatenate([whole.rows(n, n + 1) for n in rows[start:stop]])

    name, how = f"{linear.name}.shadow.output.weight", f"{len(rows)} of {linear.shape[0]} outputs"
    return derive(name, ir.DataType.FLOAT, (len(rows), linear.shape[1]), read, whole, Transform.MEASURE, how)


def _product(graph: ir.Graph, x: ir.Value, rows: Weight, name: str, like: ir.Value, before: ir.Node) -> ir.Value:
    """x [.., K] times float rows [N, K]."""
    held = initializer(graph, rows.name, rows)
    turned = ir.Value(type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(rows.dims[::-1]))
    transposed = node_before(graph, "Transpose", [held], f"{name}.turned", turned, before, perm=[1, 0])
    return cpu_node(graph, "MatMul", [x, transposed.outputs[0]], name, like, before).outputs[0]


def _add(graph: ir.Graph, linear: Linear, made: ir.Value) -> None:
    """Add a shadow to the output of `linear`."""
    old, node, name = linear.node.outputs[0], linear.node, f"{linear.name}.shadow"
    whole = ir.Value(name=f"{name}.whole", type=old.type, shape=old.shape)
    add = ir.Node("", "Add", [old, made], outputs=[whole], name=f"{name}.add")
    graph.insert_after(node, add)
    SHADOW.set(node, "main")
    SHADOW.set(add, "sum")
    if old.is_graph_output():  # the interface keeps its name
        whole.name, old.name = old.name, f"{name}.main"
    read_instead(graph, old, whole, (add,))


def _clip_output(graph: ir.Graph, linear: Linear, how: Split) -> None:
    """Clip what `linear` gives, for everything that reads it."""
    old, node = linear.node.outputs[0], linear.node
    uses = [(use.node, use.idx) for use in old.uses()]
    clipped = ir.Value(name=f"{linear.name}.clip.out", type=old.type, shape=old.shape)
    ends = _ends(graph, how, f"{linear.name}.clip")
    clip = ir.Node("", "Clip", [old, *ends], outputs=[clipped], name=f"{linear.name}.clip")
    graph.insert_after(node, clip)
    SHADOW.set(clip, "clip")
    for reader, index in uses:
        reader.replace_input_with(index, clipped)


def _ends(graph: ir.Graph, how: Split, base: str) -> list[ir.Value]:
    ends = {"low": how.encoding.low, "high": how.encoding.high}
    return [initializer(graph, f"{base}.{key}", from_array("", np.array(end, np.float32))) for key, end in ends.items()]
