"""From when to when each value of a graph is needed.

    value   bytes   first node .. last node that writes or reads it        nodes counted in the order they run

Inputs and outputs of the graph are held from the first to the last node: whoever runs it owns them. What depends on
constants alone is a weight, the cache's inputs are the cache, and a value that only renames another's shape is the
other: none of these is a buffer of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def lifetimes(graph: ir.Graph, float_bytes: int) -> list[Lifetime]:
    """The buffers of a graph with static shapes; floats of 32 bits take `float_bytes`. ValueError without a shape."""
    nodes = list(graph)
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
        last = end if maker is None or value in outputs else max((at[use.node] for use in value.uses()), default=first)
        if whole is not None:
            root[value] = whole
            spans[whole] = spans[whole][0], max(spans[whole][1], last)
        else:
            root[value] = value
            spans[value] = first, last
    return [Lifetime(value.name or "", _size(value, float_bytes), *span) for value, span in spans.items()]


def _buffers(graph: ir.Graph, nodes: list[ir.Node], constant: set[ir.Node]) -> Iterator[ir.Value]:
    """Values that are neither weights nor cache, each behind the one it is made of."""
    for value in graph.inputs:
        if not kv_names.is_cache(value.name):
            yield value
    for node in nodes:
        for value in node.outputs if node not in constant else ():
            if value.name and (value.uses() or value.is_graph_output()):
                yield value


def _size(value: ir.Value, float_bytes: int) -> int:
    dims = None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]
    if dims is None or None in dims:
        raise ValueError(f"`{value.name}` has no static shape")
    count = prod(dim for dim in dims if dim is not None)
    if value.dtype is None or value.dtype == ir.DataType.FLOAT:
        return count * float_bytes
    return -(-count * value.dtype.bitwidth // 8)
