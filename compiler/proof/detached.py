"""A graph whose inner values can be looked at, and the same graph with each op fed what an engine made before it.

    tapped     every float value that is computed is an output
    detached   each reader of such a value reads an input in its place: what an op makes hangs on that op alone

So an op that an engine computes wrong is told apart from those behind it, which compute on what it made.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..ir.clone import clone_model
from ..ir.graph_queries import is_tensor_of
from ..ir.module import drop_unread_nodes, drop_unused_initializers
from ..oracle import oracle

_GIVEN = ".given"
_INNER, _ZERO, _ASIDE = ".inner", ".zero", ".aside"
_NEARLY = 1e-30
_PIECES = 4
_MOST = 1 << 28  # bytes of all inner values together


def inner_values(model: ir.Model) -> list[str]:
    """The names of the float values that ops of the main graph compute, in order; few enough to be held."""
    found, held = [], 0
    for node in model.graph:
        for value in node.outputs:
            is_float = is_tensor_of(value, ir.DataType.FLOAT)
            if not is_float or not (value.uses() or value.is_graph_output()) or not value.name:
                continue
            dims = [d if isinstance(d, int) else 4 for d in value.shape or ()]
            held += 4 * math.prod(dims)
            if held <= _MOST or value.is_graph_output():
                found.append(value.name)
    return found


def chosen(names: Sequence[str]) -> list[str]:
    """Some of them, from the first quarter of the graph to the last."""
    return [names[len(names) * part // _PIECES] for part in range(1, _PIECES)] if len(names) >= _PIECES else []


def tapped(model: ir.Model, names: Collection[str], aside: bool = False) -> ir.Model:
    """A copy whose outputs are the values of these names, besides its own.

    `aside`: the sum of the value and nearly 0 is the output, as MNN 3.6.1 lets Erf write over an output that a MatMul
    of integers makes. (Its converter takes a sum with 0 away.)
    """
    copy = clone_model(model)
    wanted = set(names) - {value.name for value in copy.graph.outputs}
    for value in [value for node in copy.graph for value in node.outputs if value.name in wanted]:
        copy.graph.outputs.append(_aside(copy.graph, value) if aside and value.uses() else value)
    return copy


def _aside(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """`value` under its own name, computed by an op that only the output reads; the value itself gets another."""
    name = value.name or ""
    value.name = name + _INNER
    zero = ir.Value(name=name + _ZERO, const_value=ir.tensor(np.full((), _NEARLY, np.float32)))
    zero.type, zero.shape = value.type, ir.Shape(())
    graph.register_initializer(zero)
    output = ir.Value(name=name, type=value.type, shape=value.shape)
    graph.append(ir.node("Add", [value, zero], outputs=[output], name=name + _ASIDE))
    return output


def upto(model: ir.Model, count: int) -> ir.Model:
    """A copy of the first `count` nodes; its outputs are what the others read of them, and outputs of the graph."""
    copy = clone_model(model)
    nodes = list(copy.graph)
    kept = set(nodes[:count])
    made = [value for node in nodes[:count] for value in node.outputs]
    ends = [v for v in made if v.is_graph_output() or any(use.node not in kept for use in v.uses())]
    del copy.graph.outputs[:]
    copy.graph.outputs.extend(ends)
    drop_unread_nodes(copy.graph, lambda _node: True)
    drop_unused_initializers(copy.graph)
    return copy


def remade(model: ir.Model, feeds: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each op makes in the oracle of what an engine `made` of the values before it, by name of the value."""
    copy = clone_model(model)
    graph = copy.graph
    given: dict[str, np.ndarray] = dict(feeds)
    outputs = []
    for node in list(graph):
        for value in node.outputs:
            name = value.name or ""
            if name not in made:
                continue
            outputs.append(value)
            if not value.uses():
                continue
            instead = ir.Value(name=name + _GIVEN, type=value.type, shape=ir.Shape(made[name].shape))
            for use in list(value.uses()):
                use.node.replace_input_with(use.idx, instead)
            graph.inputs.append(instead)
            given[name + _GIVEN] = made[name].astype((value.dtype or ir.DataType.FLOAT).numpy())
    del graph.outputs[:]
    graph.outputs.extend(outputs)
    return oracle.run(copy, given)
