"""What an exported decoder is: its layers followed from the logits back to the ids, without a look at names.

    logits = head(norm(x_L))
    x_l+1  = r + down(act(gate(n)) * up(n)),   n = norm(r)
    r      = x_l + o(attention(norm(x_l)))                    attention.py
    x_0    = embedding[ids] (* scale)

Whoever builds a graph from this proves it beside the file (`oracle/rebuilt.py`): what is read here may be any graph's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from ....ir.linears import as_linear
from ....ir.module import constant
from ....ir.weights import Weight
from .attention import Heads, attention
from .patterns import Norm, activation, norm
from .projections import Projection, is_linear, is_projection, projection
from .walk import Declined, base, decline, maker, split, through

_MOST_LAYERS = 4096


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
    reasons: list[str] = []
    for at in (1, 0):
        branch, residual = base(add.inputs[at]), base(add.inputs[1 - at])
        try:
            return residual, projection(branch), None
        except Declined as reason:
            if is_linear(branch):
                reasons.append(str(reason))
        try:
            outer = norm(branch)
            return residual, projection(outer.input), outer
        except Declined:
            continue
    if reasons:
        decline(reasons[0])
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
        decline("gate and up do not read one norm of the residual stream", gate.node)
    before, output, attention_outer = _branch(maker(residual, "Add"))
    heads = attention(output)
    if heads.input_norm.input is not before:
        decline("attention does not read a norm of the residual stream", output.node)
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
