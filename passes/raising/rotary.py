"""Rotary embeddings by halves, found from the Add of their two products.

    x * cos + concat(-x[D/2:], x[:D/2]) * sin        x [B,H,S,D]; cos, sin [B,1,S,D], each of two equal halves

Engines have the op for cos and sin of half as many channels, [B,S,D/2]: these are cut off once, where several
embeddings turn by the same angles.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...compiler.ir.module import constant, initializer
from ...compiler.ir.weights import from_array, numbers
from ...compiler.sources.onnx.decoder.rotary import half_turned
from ...compiler.sources.onnx.decoder.walk import base, decline, made_by, scalar, split

_AXES = 4
_ELEMENTWISE = ("Cos", "Sin", "Cast", "Identity", "Mul", "Unsqueeze")
_MOST_STEPS = 16


def raised(add: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """(value, op that makes it) for the rotary embedding that ends with `add`; None where nothing is turned by halves.

    `Declined` with the reason where something is, and the op computes another.
    """
    products = [base(value).producer() for value in add.inputs]
    if any(node is None or node.op_type != "Mul" for node in products):
        return None
    turned = [
        split(node, lambda one: made_by(one, "Concat") and half_turned(one) is not None) for node in products if node
    ]
    at = 0 if turned[0] is not None else 1
    found = turned[at]
    if found is None:
        return None
    concat, x = found[0].producer(), half_turned(found[0])
    other = products[1 - at]
    straight = split(other, lambda one: one is x) if other is not None else None
    if concat is None or x is None or straight is None:
        decline("halves that are turned of one value, and a product of another", add)
    _demand_unread(add, concat)
    size = x.shape[3] if x.shape is not None and len(x.shape) == _AXES else None
    if not isinstance(size, int) or size % 2:
        decline("what is turned has not the four axes batch, heads, positions, channels of a known number", add)
    half = size // 2
    if not _by_halves(concat, x, half):
        decline("what is put together is not minus the second half and the first", concat)
    if x.dtype != add.outputs[0].dtype:
        decline("what is turned and the result have different types", add)
    sides = [_checked(value, x, half, add) for value in (straight[1], found[1])]
    return add.outputs[0], ir.node("RotaryEmbedding", [x, *(_half(value, half, add) for value in sides)], {})


def _demand_unread(add: ir.Node, concat: ir.Node) -> None:
    inner = [base(value) for value in add.inputs] + [concat.outputs[0]]
    inner += [base(value) for value in concat.inputs]
    if any(len(tuple(value.uses())) != 1 or value.is_graph_output() for value in inner):
        decline("a value inside of the rotary embedding has other readers", add)


def _by_halves(concat: ir.Node, x: ir.Value, half: int) -> bool:
    """Whether `concat` is of -x[half:] and x[:half], by where they are cut out."""
    if concat.attributes.get_int("axis", 0) not in (-1, _AXES - 1):
        return False
    negative = base(concat.inputs[0]).producer()
    second = base(negative.inputs[0]) if negative is not None else None
    return second is not None and _cut(second, x, half) == half and _cut(base(concat.inputs[1]), x, half) == 0


def _cut(value: ir.Value, x: ir.Value, half: int) -> int | None:
    """Where the half of `x` that `value` is begins; None where it is none."""
    node = value.producer()
    if node is None or base(node.inputs[0]) is not x:
        return None
    if node.op_type == "Split":
        sizes = [list(one.shape)[-1:] == [half] for one in node.outputs if one.shape is not None]
        last = node.attributes.get_int("axis", 0) in (-1, _AXES - 1)
        return half * node.outputs.index(value) if last and sizes == [True, True] else None
    held = [constant(one) for one in node.inputs[1:]]
    if node.op_type != "Slice" or any(one is None or one.size != 1 for one in held) or len(held) < 3:
        return None
    start, end, axis, *step = (int(numbers(one).reshape(-1)[0]) for one in held if one is not None)
    if axis not in (-1, _AXES - 1) or step not in ([], [1]):
        return None
    begin = start + 2 * half if start < 0 else start
    stop = min(end + 2 * half if end < 0 else end, 2 * half)
    return begin if stop - begin == half else None


def _checked(value: ir.Value, x: ir.Value, half: int, add: ir.Node) -> ir.Value:
    """cos or sin, if it has the axes that the op wants, and two equal halves."""
    dims = list(value.shape) if value.shape is not None else []
    if len(dims) != _AXES or dims[1] != 1 or dims[3] != 2 * half:
        decline("cos or sin that have not the axes batch, 1, positions, channels", add)
    shape = list(x.shape) if x.shape is not None else []
    if any(dims[at] != shape[at] or not _stated(dims[at]) for at in (0, 2)):
        decline("cos or sin of other batches or positions than what is turned", add)
    if value.dtype != x.dtype:
        decline("cos or sin of another type than what is turned", add)
    if not _two_equal_halves(value, half):
        decline("cos or sin whose halves are not known to be the same", add)
    return value


def _stated(size: int | ir.SymbolicDim) -> bool:
    """Whether equal sizes are known to be: a dimension without a name equals no other."""
    return isinstance(size, int) or bool(size.value)


def _two_equal_halves(value: ir.Value, half: int) -> bool:
    """Numbers whose halves are equal, or what is computed one by one of concat(a, a)."""
    at: ir.Value | None = value
    for _ in range(_MOST_STEPS):
        held = constant(at)
        if held is not None:
            array = np.asarray(numbers(held))
            return bool(array.shape[-1] == 2 * half and np.array_equal(array[..., :half], array[..., half:]))
        node = at.producer() if at is not None else None
        if node is None:
            return False
        if node.op_type == "Concat":
            axis = node.attributes.get_int("axis", 0)
            last = axis == -1 or (node.outputs[0].shape is not None and axis == len(node.outputs[0].shape) - 1)
            return bool(last and len(node.inputs) == 2 and base(node.inputs[0]) is base(node.inputs[1]))
        if node.op_type not in _ELEMENTWISE:
            return False
        if node.op_type == "Unsqueeze" and not _before_channels(node):
            return False
        rest = [one for one in node.inputs if scalar(one) is None] if node.op_type == "Mul" else [node.inputs[0]]
        if len(rest) != 1:
            return False
        at = rest[0]
    return False


def _before_channels(unsqueeze: ir.Node) -> bool:
    """Whether the last axis stays the last."""
    shape, held = unsqueeze.outputs[0].shape, constant(unsqueeze.inputs[1])
    return bool(
        shape is not None
        and held is not None
        and all(int(one) % len(shape) != len(shape) - 1 for one in numbers(held).flat)
    )


def _half(value: ir.Value, half: int, add: ir.Node) -> ir.Value:
    """[B,S,D/2] of cos or sin [B,1,S,D], made once for all that turn by it."""
    name = f"{value.name}/half"
    known = next((use.node for use in value.uses() if use.node.name == f"{name}/channels"), None)
    if known is not None:
        return next(iter(known.outputs[0].uses())).node.outputs[0]
    graph = add.graph
    if not isinstance(graph, ir.Graph):
        decline("a rotary embedding inside of another op", add)
    numbers_ = {"begin": [0], "end": [half], "channels_axis": [3], "heads_axis": [1]}
    given = {
        key: initializer(graph, f"{name}/{key}", from_array(f"{name}/{key}", np.array(held, np.int64)))
        for key, held in numbers_.items()
    }
    cut = ir.node("Slice", [value, given["begin"], given["end"], given["channels_axis"]], name=f"{name}/channels")
    flat = ir.node("Squeeze", [cut.outputs[0], given["heads_axis"]], name=f"{name}/heads")
    dims = list(value.shape or ())
    for node, shape in ((cut, [*dims[:3], half]), (flat, [dims[0], dims[2], half])):
        made = node.outputs[0]
        made.name, made.type, made.shape = f"{node.name}/y", value.type, ir.Shape(shape)
    maker = value.producer()
    if maker is not None:
        graph.insert_after(maker, [cut, flat])
    else:
        graph.insert_before(graph[0], [cut, flat])
    return flat.outputs[0]
