"""What an exported decoder is: its layers followed from the logits back to the ids, without a look at names.

    logits = head(norm(x_L))
    x_l+1  = r + down(act(gate(n)) * up(n)),   n = norm(r)
    r      = x_l + o(softmax(scale q [past_k, k]^T + mask) [past_v, v])
    q, k   = rotary(norm?(heads(Wq n))), …     v = heads(Wv n),   n = norm(x_l)
    x_0    = embedding[ids] (* scale)

Whoever builds a graph from this proves it beside the file (`prove.py`): what is read here may be any graph's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from ....ir.linears import as_linear
from ....ir.module import constant
from ....ir.weights import Weight
from .patterns import (
    Declined,
    Norm,
    Projection,
    Rotation,
    activation,
    base,
    decline,
    is_projection,
    maker,
    norm,
    projection,
    rotation,
    split,
    through,
)  # fmt: skip

_SHAPED = ("Transpose", "Reshape", "Expand", "Unsqueeze", "Squeeze")
_MOST_LAYERS = 4096


@dataclass(frozen=True)
class Cache:
    """Past keys or values of one layer: the input, and the output with the new ones behind them."""

    past: str
    present: str
    new: ir.Value


@dataclass(frozen=True)
class Heads:
    """Attention of a layer, up to its output projection."""

    input_norm: Norm
    query: Projection
    key: Projection
    value: Projection
    scale: float
    mask: ir.Value
    keys: Cache
    values: Cache
    query_norm: Norm | None
    key_norm: Norm | None
    turns: Rotation | None
    head_dim: int
    kv_heads: int


@dataclass(frozen=True)
class Layer(Heads):
    """One decoder layer; `inner` and `outer` norms, the latter behind a branch."""

    output: Projection
    mlp_norm: Norm
    gate: Projection
    up: Projection
    down: Projection
    activation: str
    attention_outer: Norm | None = None
    mlp_outer: Norm | None = None


@dataclass
class Found:
    """A decoder read from a graph; `layers` from the first."""

    ids: ir.Value
    embedding: Weight
    embedding_scale: float
    norm: Norm
    head: Projection
    layers: list[Layer] = field(default_factory=list)


def looks_like_decoder(graph: ir.Graph) -> bool:
    """Whether ids go in, and pairs of tensors with a sequence in the third of four axes: a K/V cache."""
    caches = [value for value in graph.inputs if value.shape is not None and len(value.shape) == 4]
    ids = any(value.dtype in (ir.DataType.INT64, ir.DataType.INT32) for value in graph.inputs)
    return ids and len(caches) >= 2 and len(caches) % 2 == 0


def recognise(graph: ir.Graph) -> Found:
    """The decoder in `graph`; `Declined` with the first thing that is otherwise."""
    logits = _logits(graph)
    head = projection(logits)
    final = norm(head.input)
    layers: list[Layer] = []
    at = final.input
    while not _is_embedding(at):
        if len(layers) > _MOST_LAYERS:
            decline("layers without end")
        layer, at = _layer(at)
        layers.append(layer)
    if not layers:
        decline("no layers between the embedding and the head")
    ids, table, scale = _embedding(at)
    return Found(ids, table, scale, final, head, layers[::-1])


def _logits(graph: ir.Graph) -> ir.Value:
    """The one output that is no cache: [B,S,V]."""
    others = [value for value in graph.outputs if value.shape is None or len(value.shape) != 4]
    if len(others) != 1:
        decline(f"{len(others)} outputs besides caches, a decoder has its logits")
    return others[0]


def _is_embedding(value: ir.Value) -> bool:
    at, _ = through(value, ())
    node = at.producer()
    return node is not None and node.op_type == "Gather" and constant(node.inputs[0]) is not None


def _embedding(value: ir.Value) -> tuple[ir.Value, Weight, float]:
    at, scale = through(value, ())
    node = maker(at, "Gather")
    table, ids = as_linear(node), base(node.inputs[1])
    if table is None or table.stored is None or not ids.is_graph_input():
        decline("an embedding that is not looked up by an input of ids", node)
    return ids, table.stored, scale


def _branch(add: ir.Node) -> tuple[ir.Value, Projection, Norm | None]:
    """(residual, last linear, norm behind it) of residual + branch."""
    for at in (1, 0):
        branch, residual = base(add.inputs[at]), base(add.inputs[1 - at])
        if is_projection(branch):
            return residual, projection(branch), None
        try:
            outer = norm(branch)
            return residual, projection(outer.input), outer
        except Declined:
            continue
    decline("an Add that is not of the residual stream and a linear", add)


def _layer(value: ir.Value) -> tuple[Layer, ir.Value]:
    """The last layer in front of `value`, and the residual stream that goes into it."""
    residual, down, mlp_outer = _branch(maker(value, "Add"))
    product = maker(down.input, "Mul")
    pair = split(product, lambda one: is_projection(one))
    if pair is None:
        decline("no linear among the factors that the last linear of a layer reads", product)
    up = projection(pair[0])
    kind, gated = activation(pair[1])
    gate = projection(gated)
    mlp_norm = norm(up.input)
    if gate.input is not up.input or mlp_norm.input is not residual:
        decline("gate and up do not read one norm of the residual stream", gate.linear.node)
    before, output, attention_outer = _branch(maker(residual, "Add"))
    heads = _attention(output)
    if heads.input_norm.input is not before:
        decline("attention does not read a norm of the residual stream", output.linear.node)
    made = Layer(
        **vars(heads),
        output=output,
        mlp_norm=mlp_norm,
        gate=gate,
        up=up,
        down=down,
        activation=kind,
        attention_outer=attention_outer,
        mlp_outer=mlp_outer,
    )
    return made, before


def _attention(output: Projection) -> Heads:
    at, _ = through(output.input, _SHAPED)
    product = maker(at, "MatMul")
    softmax = _softmax(product.inputs[0])
    scores, mask = _masked(softmax.inputs[0])
    at, scale = through(scores, ())
    dots = maker(at, "MatMul")
    q, of_query = through(dots.inputs[0], ())
    k, of_key = through(dots.inputs[1], _SHAPED)
    v, of_value = through(product.inputs[1], _SHAPED)
    if of_value != 1.0:
        decline("values that are scaled", product)
    keys, values = _cache(k), _cache(v)
    (query, query_norm, turns), (key, key_norm, same) = _heads(q), _heads(keys.new)
    value, value_norm, value_turns = _heads(values.new)
    if value_norm is not None or value_turns is not None:
        decline("values that are normalised or turned", value.linear.node)
    turned = [None if one is None else one.frequencies.tolist() for one in (turns, same)]
    if turned[0] != turned[1]:
        decline("queries and keys that are turned otherwise", query.linear.node)
    if not (query.input is key.input is value.input):
        decline("q, k and v do not read one value", query.linear.node)
    size = _head_dim(k, turns, dots)
    return Heads(
        norm(query.input), query, key, value, scale * of_query * of_key, mask, keys, values, query_norm, key_norm,
        turns, size, key.linear.shape[0] // size,
    )  # fmt: skip


def _head_dim(present: ir.Value, turns: Rotation | None, dots: ir.Node) -> int:
    """Channels of a head: twice the pairs that are turned, or the cache's last axis."""
    if turns is not None:
        return 2 * len(turns.frequencies)
    past = maker(present, "Concat").inputs[0]
    size = past.shape[3] if past is not None and past.shape is not None else None
    return size if isinstance(size, int) and size > 0 else decline("a cache whose size of heads is open", dots)


def _softmax(value: ir.Value | None) -> ir.Node:
    """The Softmax, behind what puts zeros into rows that see nothing: Where(IsNaN(p), 0, p)."""
    node = maker(value, "Softmax", "Where")
    return maker(node.inputs[2], "Softmax") if node.op_type == "Where" else node


def _masked(value: ir.Value | None) -> tuple[ir.Value, ir.Value]:
    """(scores, mask) of scores + mask."""
    node = maker(value, "Add")
    pair = split(node, lambda one: _leads_to_product(one))
    if pair is None:
        decline("a Softmax over what is no product of queries and keys", node)
    return pair


def _leads_to_product(value: ir.Value) -> bool:
    node = through(value, ())[0].producer()
    return node is not None and node.op_type == "MatMul"


def _cache(value: ir.Value) -> Cache:
    """Past and new positions side by side, as an output of the graph."""
    node = maker(value, "Concat")
    if len(node.inputs) != 2 or node.attributes.get_int("axis", 0) not in (2, -2):
        decline("keys or values that are not the past ones and new ones along the third axis", node)
    past, new = base(node.inputs[0]), base(node.inputs[1])
    present = next((one for one in _same_values(node.outputs[0]) if one.is_graph_output()), None)
    if not past.is_graph_input() or present is None:
        decline("a cache that is no input or is not put out", node)
    return Cache(past.name or "", present.name or "", new)


def _same_values(value: ir.Value) -> Iterator[ir.Value]:
    """`value` and its casts and copies."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += [use.node.outputs[0] for use in one.uses() if use.node.op_type in ("Cast", "Identity")]


def _heads(value: ir.Value) -> tuple[Projection, Norm | None, Rotation | None]:
    """Linear, norm and rotary embedding of q, k or v [B,heads,S,D]."""
    turns = rotation(value)
    at, factor = through(turns.input if turns is not None else value, _SHAPED)
    if factor != 1.0:
        decline("heads that are scaled before they are turned", at.producer())
    if is_projection(at):
        return projection(at), None, turns
    found = norm(at)
    inner, _ = through(found.input, _SHAPED)
    return projection(inner), found, turns
