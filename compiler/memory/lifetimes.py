"""From when to when each value of a graph is needed.

    value   bytes   first node .. last node that writes or reads it        nodes counted in the order they run

Inputs and outputs of the graph are held from the first to the last node: whoever runs it owns them. What depends on
constants alone is a weight, the cache's inputs are the cache, and a value that only renames another's shape is the
other: none of these is a buffer of its own. An Attention that an engine runs in steps needs room inside: its scores
[H, S, T], behind them either their softmax or the keys of all positions, and the values of all positions. What else an
engine takes inside an op, its target says (`Target.workspace`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from ..ir import kv_names
from ..ir.graph_queries import constant_nodes

_SAME_BYTES = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"))


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` bytes, needed by the nodes `first` to `last`."""

    name: str
    size: int
    first: int
    last: int


def lifetimes(
    graph: ir.Graph, float_bytes: int, workspace: Callable[[ir.Node], int] = lambda _node: 0
) -> list[Lifetime]:
    """The buffers of a graph with static shapes; floats of 32 bits take `float_bytes`. ValueError without a shape.

    `workspace`: bytes that the engine takes inside an op.
    """
    nodes = list(graph)  # a body's nodes are not among them: what they read is held to the end
    at = {node: index for index, node in enumerate(nodes)}
    end = max(len(nodes) - 1, 0)
    constant = constant_nodes(nodes)
    outputs = set(graph.outputs)
    root: dict[ir.Value, ir.Value] = {}
    spans: dict[ir.Value, tuple[int, int]] = {}
    for value in _buffers(graph, nodes, constant):
        maker = value.producer()
        same = maker.inputs[0] if maker is not None and maker.op_type in _SAME_BYTES else None
        whole = root.get(same) if same is not None else None
        first = 0 if maker is None else at[maker]
        last = (
            end
            if maker is None or value in outputs
            else max((at.get(use.node, end) for use in value.uses()), default=first)
        )
        if whole is not None:
            root[value] = whole
            spans[whole] = spans[whole][0], max(spans[whole][1], last)
        else:
            root[value] = value
            spans[value] = first, last
    found = [Lifetime(value.name or "", _size(value, float_bytes), *span) for value, span in spans.items()]
    live = [node for node in nodes if node not in constant]
    rooms = [(node, _inside(node, float_bytes)) for node in live if node.op_type == "Attention"]
    rooms += [(node, size) for node in live if (size := workspace(node))]
    return found + [Lifetime(f"{node.name}.inside", size, at[node], at[node]) for node, size in rooms]


def _buffers(graph: ir.Graph, nodes: list[ir.Node], constant: set[ir.Node]) -> Iterator[ir.Value]:
    """Values that are neither weights nor cache, each behind the one it is made of."""
    for value in graph.inputs:
        if not kv_names.is_cache(value.name):
            yield value
    for node in nodes:
        for value in node.outputs if node not in constant else ():
            if value.name and (value.uses() or value.is_graph_output()):
                yield value


def _inside(node: ir.Node, float_bytes: int) -> int:
    """Bytes inside an Attention q [1,H,S,D], k and v [1,G,S,D], mask [.,1,S,T], past keys and values."""
    query, key, _, mask = (value.shape if value is not None else None for value in node.inputs[:4])
    if query is None or key is None or mask is None or len(query) != 4:
        raise ValueError(f"`{node.name}` has no static shape")
    sizes = [size for size in (*query[1:], key[1], mask[-1]) if isinstance(size, int)]
    if len(sizes) != 5:
        raise ValueError(f"`{node.name}` has no static shape")
    h, s, d, g, t = sizes
    scores, cached = h * s * t, g * t * d  # keys are done with when the softmax begins
    if len(node.inputs) < 6 or node.inputs[4] is None:  # keys and values of all positions come from outside
        return 2 * scores * float_bytes
    return (scores + cached + max(scores, cached)) * float_bytes


def _size(value: ir.Value, float_bytes: int) -> int:
    dims = None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]
    if dims is None or None in dims:
        raise ValueError(f"`{value.name}` has no static shape")
    count = prod(dim for dim in dims if dim is not None)
    if value.dtype is None or value.dtype == ir.DataType.FLOAT:
        return count * float_bytes
    try:
        return -(-count * value.dtype.bitwidth // 8)
    except TypeError:
        raise ValueError(f"`{value.name}` has no fixed size: {value.dtype}") from None
