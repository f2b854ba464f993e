"""Attention in primitive ops, found from its Softmax.

    Softmax(scale * q k^T + mask) v        q [B,H,S,D], k [B,H,T,D], v [B,H,T,E], mask broadcast to [B,H,S,T]

Keys come turned: the Transpose before the product goes, or becomes the one that brings its input to [B,H,T,D]. The
factor may stand behind the product, or at queries and keys before it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...compiler.ir.module import initializer
from ...compiler.ir.weights import from_array
from ...compiler.sources.onnx.decoder.walk import base, decline, made_by, split, through

_TURNED = [0, 1, 3, 2]
_AXES = 4


def raised(softmax: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """(value, op that makes it) for the attention that `softmax` belongs to; None where it is over no product.

    `Declined` with the reason where it is, and is no attention that the op computes.
    """
    scores, mask = _scores(softmax.inputs[0])
    dots = scores.producer()
    if dots is None:
        return None
    if softmax.attributes.get_int("axis", -1) not in (-1, _AXES - 1):
        decline("the softmax is not over the keys", softmax)
    product = _product(softmax)
    _demand_unread(softmax, dots)
    scale = through(softmax.inputs[0] if mask is None else _other(softmax.inputs[0], mask), ())[1]
    q, of_query = through(dots.inputs[0], ())
    turned, of_key = through(dots.inputs[1], ())
    v = base(product.inputs[1])
    for value, what in ((q, "queries"), (turned, "keys"), (v, "values")):
        if value.shape is None or len(value.shape) != _AXES:
            decline(f"{what} that have not the four axes batch, heads, positions, channels", dots)
    made = product.outputs[0]
    if not q.dtype == turned.dtype == v.dtype == softmax.outputs[0].dtype == made.dtype:
        decline("queries, keys, values, probabilities and result have different types", product)
    if any(_differ(q, value, axis) for value in (turned, v) for axis in (0, 1)):
        decline("keys or values of fewer batches or heads than the queries", dots)
    keys, perm = _keys(turned, dots)
    inputs: list[ir.Value | None] = [q, keys, v]
    if mask is not None:
        inputs.append(_rows(mask, q, turned, softmax))
    if perm is not None:
        inputs[1] = _turned(keys, perm, dots)
    return made, ir.node("Attention", inputs, {"scale": scale * of_query * of_key})


def _scores(value: ir.Value | None) -> tuple[ir.Value, ir.Value | None]:
    """(product of queries and keys, mask); a value that no node makes where there is no product."""
    at = base(value)
    node = at.producer()
    if node is not None and node.op_type == "Add":
        pair = split(node, lambda one: made_by(through(one, ())[0], "MatMul"))
        if pair is not None:
            return through(pair[0], ())[0], pair[1]
    if (
        node is not None
        and node.op_type == "Where"
        and any(made_by(through(v, ())[0], "MatMul") for v in node.inputs[1:])
    ):
        decline("scores that are masked by a choice, not by a sum", node)
    inner = through(at, ())[0]
    return (inner, None) if made_by(inner, "MatMul") else (ir.Value(name=""), None)


def _other(value: ir.Value | None, mask: ir.Value) -> ir.Value | None:
    """The scores of scores + mask."""
    node = base(value).producer()
    return None if node is None else next(one for one in node.inputs if one is not None and base(one) is not mask)


def _product(softmax: ir.Node) -> ir.Node:
    """The product of the probabilities and the values."""
    uses = tuple(softmax.outputs[0].uses())
    if len(uses) != 1 or softmax.outputs[0].is_graph_output():
        decline("a value inside of the attention has other readers", softmax)
    node = uses[0].node
    if node.op_type != "MatMul" or uses[0].idx != 0:
        decline(f"its probabilities are read by a {node.op_type}, not multiplied by values", softmax)
    return node


def _demand_unread(softmax: ir.Node, dots: ir.Node) -> None:
    """Nothing but the next op reads what lies between the product and the softmax."""
    at = softmax.inputs[0]
    while at is not None and (node := at.producer()) is not None:
        if len(tuple(at.uses())) != 1 or at.is_graph_output():
            decline("a value inside of the attention has other readers", node)
        if node is dots:
            return
        at = next((v for v in node.inputs if v is not None and _leads_to(v, dots)), None)


def _leads_to(value: ir.Value, dots: ir.Node) -> bool:
    at = through(value, ())[0].producer()
    return at is dots


def _differ(a: ir.Value, b: ir.Value, axis: int) -> bool:
    sizes = [value.shape[axis] if value.shape is not None else None for value in (a, b)]
    return all(isinstance(size, int) for size in sizes) and sizes[0] != sizes[1]


def _keys(turned: ir.Value, dots: ir.Node) -> tuple[ir.Value, list[int] | None]:
    """What the Transpose before the product reads, and how it is to be turned to [B,H,T,D]: None, not at all."""
    node = turned.producer()
    if node is None or node.op_type != "Transpose":
        decline("keys that no Transpose turns", dots)
    perm = list(node.attributes.get_ints("perm", ()) or range(_AXES)[::-1])
    instead = [perm[at] for at in _TURNED]
    return base(node.inputs[0]), None if instead == list(range(_AXES)) else instead


def _turned(keys: ir.Value, perm: list[int], dots: ir.Node) -> ir.Value:
    """`keys` as [B,H,T,D]: one Transpose for another."""
    node = ir.node("Transpose", [keys], {"perm": perm}, name=f"{dots.name}/keys")
    made = node.outputs[0]
    made.name, made.type = f"{dots.outputs[0].name}/keys", keys.type
    made.shape = None if keys.shape is None else ir.Shape([keys.shape[at] for at in perm])
    _put_before(dots, node)
    return made


def _rows(mask: ir.Value, q: ir.Value, turned: ir.Value, softmax: ir.Node) -> ir.Value:
    """`mask` with a row for each query, which engines ask for; expanded where it has one for all."""
    dims = list(mask.shape) if mask.shape is not None else []
    queries, keys = (value.shape[at] if value.shape is not None else None for value, at in ((q, 2), (turned, 3)))
    if mask.dtype != q.dtype:
        decline("a mask of another type than the scores", softmax)
    if len(dims) < 2 or dims[-1] != keys or not _stated(keys):
        decline("a mask that has not a column for each key", softmax)
    if dims[-2] == queries and _stated(queries):
        return mask
    if dims[-2] not in (1, queries) or not isinstance(queries, int) or not all(isinstance(d, int) for d in dims):
        decline("a mask without a row for each query, of open sizes", softmax)
    sizes = np.array([*dims[:-2], queries, dims[-1]], np.int64)
    graph, name = softmax.graph, f"{softmax.name}/mask"
    if not isinstance(graph, ir.Graph):
        decline("an attention inside of another op", softmax)
    shape = initializer(graph, f"{name}/shape", from_array(f"{name}/shape", sizes))
    node = ir.node("Expand", [mask, shape], name=name)
    made = node.outputs[0]
    made.name, made.type, made.shape = f"{softmax.outputs[0].name}/mask", mask.type, ir.Shape(sizes.tolist())
    _put_before(softmax, node)
    return made


def _stated(size: int | ir.SymbolicDim | None) -> bool:
    """Whether equal sizes are known to be: a dimension without a name equals no other."""
    return isinstance(size, int) or (isinstance(size, ir.SymbolicDim) and bool(size.value))


def _put_before(node: ir.Node, new: ir.Node) -> None:
    if node.graph is not None:
        node.graph.insert_before(node, new)
