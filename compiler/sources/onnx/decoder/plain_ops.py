"""Ops of ONNX Runtime that join two of ONNX's, as those two; what a decoder is read from then has one form.

SkipSimplifiedLayerNormalization(x, y, gain, bias?)    ->   s = x + y (+ bias), RMSNormalization(s, gain)
FastGelu(x, bias?)                                     ->   Gelu<tanh>(x (+ bias))
QuickGelu<alpha = 1>(x)                                ->   Swish(x)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ....ir.clone import clone_model

_RUNTIME = "com.microsoft"
_SUM = 3  # the output of a SkipSimplifiedLayerNormalization that holds the sum


def with_plain_ops(model: ir.Model) -> ir.Model:
    """A copy of `model` without joined ops; `model` itself where it has none."""
    if not any(node.domain == _RUNTIME and node.op_type in _REWRITES for node in model.graph):
        return model
    made = clone_model(model)
    for node in [one for one in made.graph if one.domain == _RUNTIME]:
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is not None:
            rewrite(made.graph, node)
    return made


def _skip_norm(graph: ir.Graph, node: ir.Node) -> None:
    x, y, gain, bias = (*node.inputs, None)[:4]
    total = _put(graph, node, "Add", [x, y], ".sum")
    if bias is not None:
        total = _put(graph, node, "Add", [total, bias], ".bias")
    attributes = {"axis": -1, "epsilon": node.attributes.get_float("epsilon", 1e-12)}
    normed = _put(graph, node, "RMSNormalization", [total, gain], "", attributes)
    _replace(node, 0, normed)
    if len(node.outputs) > _SUM:
        _replace(node, _SUM, total)
    graph.remove(node, safe=True)


def _fast_gelu(graph: ir.Graph, node: ir.Node) -> None:
    x, bias = (*node.inputs, None)[:2]
    if bias is not None:
        x = _put(graph, node, "Add", [x, bias], ".bias")
    _replace(node, 0, _put(graph, node, "Gelu", [x], "", {"approximate": "tanh"}))
    graph.remove(node, safe=True)


def _quick_gelu(graph: ir.Graph, node: ir.Node) -> None:
    if node.attributes.get_float("alpha", 1.702) == 1.0:
        _replace(node, 0, _put(graph, node, "Swish", [node.inputs[0]], ""))
        graph.remove(node, safe=True)


_REWRITES: Mapping[str, Callable[[ir.Graph, ir.Node], None]] = {
    "SkipSimplifiedLayerNormalization": _skip_norm,
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
}


def _put(
    graph: ir.Graph,
    before: ir.Node,
    op_type: str,
    inputs: list[ir.Value | None],
    suffix: str,
    attributes: Mapping[str, object] | None = None,
) -> ir.Value:
    """A node named after `before` with `suffix`, in front of it; its output."""
    made = ir.node(op_type, inputs, dict(attributes or {}), name=f"{before.name}{suffix}")  # type: ignore[arg-type]
    graph.insert_before(before, made)
    source, value = before.inputs[0], made.outputs[0]
    if source is not None:
        value.type, value.shape = source.type, source.shape
    value.name = f"{before.name}{suffix}.made"
    return value


def _replace(node: ir.Node, output: int, value: ir.Value) -> None:
    old = node.outputs[output]
    if old.name:
        name, old.name = old.name, None
        value.name = name
    old.replace_all_uses_with(value, replace_graph_outputs=True)
