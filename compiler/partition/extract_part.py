"""One part of a graph as a graph of its own, copied from its nodes alone: all parts together take linear time.

    inputs  = values of other parts that it reads, then the graph's inputs that it reads
    outputs = the graph's outputs that it computes, then values that other parts read

Weights are shared with the graph they were cut from. A constant that is a graph output as it stands is an output of the
first part; an input that is one is no part's: whoever runs the parts holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from ..ir.bodies import reads
from ..ir.clone import own_types
from .cut_by_placement import Cut


def extract_parts(model: ir.Model, cut: Cut, names: Mapping[str, str]) -> list[ir.Model]:
    """The parts of `model` in the order of `cut`; `names` maps the values that cross to their names at the boundary."""
    graph = model.graph
    known = [*graph.inputs, *graph.initializers.values()]
    rank = {value: i for i, value in enumerate([*cut.crossing, *known])}
    outputs: list[list[ir.Value]] = [[] for _ in cut.members]
    for value in [*graph.outputs, *(value for value in cut.crossing if not value.is_graph_output())]:
        producer = value.producer()
        if not value.is_graph_input():
            outputs[0 if producer is None else cut.home[producer]].append(value)
    parts = []
    for members, made in zip(cut.members, outputs, strict=True):
        nodes = [cut.nodes[i] for i in members]
        parts.append(_extract(model, nodes, _read(nodes, made, rank), made, names))
    return parts


def _read(nodes: Sequence[ir.Node], made: Iterable[ir.Value], rank: Mapping[ir.Value, int]) -> list[ir.Value]:
    """What a part reads from outside, in the order of `rank`."""
    own = {value for node in nodes for value in node.outputs}
    used = {value for node in nodes for value in reads(node)} | set(made)
    return sorted(used - own, key=rank.__getitem__)


def _extract(
    model: ir.Model,
    nodes: Sequence[ir.Node],
    read: Sequence[ir.Value],
    made: Sequence[ir.Value],
    names: Mapping[str, str],
) -> ir.Model:
    graph = model.graph
    part = ir.GraphView(
        [value for value in read if value.is_graph_input() or not value.is_initializer()],
        made,
        nodes=nodes,
        initializers=[value for value in read if value.is_initializer()],
        doc_string=graph.doc_string,
        opset_imports=dict(graph.opset_imports),
        name=graph.name,
        metadata_props=dict(graph.metadata_props),
    ).clone()
    own_types(part)
    for value in [*part.inputs, *part.outputs]:
        value.name = names.get(value.name or "", value.name)
    return ir.Model(
        part,
        ir_version=model.ir_version or 0,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=_called(model, nodes),
        metadata_props=dict(model.metadata_props),
    )


def _called(model: ir.Model, nodes: Iterable[ir.Node]) -> list[ir.Function]:
    """Copies of the functions that `nodes` call, and those that these call, in the model's order."""
    found: set[ir.OperatorIdentifier] = set()
    waiting = {node.op_identifier() for node in nodes}
    while waiting:
        called = waiting & model.functions.keys() - found
        found |= called
        waiting = {node.op_identifier() for name in called for node in model.functions[name]}
    return [function.clone() for name, function in model.functions.items() if name in found]
