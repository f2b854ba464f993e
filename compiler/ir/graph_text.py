"""A module as text for people: one line per op, in order, with shapes, devices and what the weights are.

layers.0.mlp.down_proj   MatMul(mlp.mul.out [1,4,768], down_proj.weight_t [768,256]) -> … [1,4,256]   @npu
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .annotations import Holder, Subject, shown

if TYPE_CHECKING:
    import onnx_ir as ir

    from .module import Module

_LONGEST = 60  # characters of one attribute


def module_text(module: Module) -> str:
    """All graphs of `module`."""
    head = f"module `{module.name}` at level {module.level.label}"
    first = next(iter(module.graphs.values()), None)
    head += "" if first is None else _facts(Subject.MODEL, first)
    return "\n".join([head, *(line for key, model in module.graphs.items() for line in graph_lines(key, model.graph))])


def graph_lines(key: str, graph: ir.Graph) -> Iterator[str]:
    """The lines of one graph: inputs, initializers with their origin, nodes, outputs."""
    yield f"graph {key}{_facts(Subject.GRAPH, graph)}"
    yield from (f"  in   {_typed(value)}" for value in graph.inputs)
    for value in graph.initializers.values():
        tensor = value.const_value
        origin = getattr(tensor, "origin", "graph")
        facts = "" if tensor is None else _facts(Subject.TENSOR, tensor)
        yield f"  has  {_typed(value)}  from {origin}{facts}"
    width = min(48, max((len(node.name or "") for node in graph), default=0))
    for node in graph:
        made = ", ".join(_typed(value) for value in node.outputs if value.name)
        read = ", ".join("-" if value is None else value.name or "?" for value in node.inputs)
        facts = _facts(Subject.NODE, node)
        domain = f"{node.domain}." if node.domain else ""
        yield f"  {node.name or '':{width}}  {domain}{node.op_type}({read}){_attributes(node)} -> {made}{facts}"
    yield from (f"  out  {_typed(value)}" for value in graph.outputs)


def _facts(subject: Subject, holder: Holder) -> str:
    """What is known about `holder`, each fact behind two blanks."""
    return "".join(f"  {annotation.dumped(text)}" for annotation, text in shown(subject, holder))


def _typed(value: ir.Value) -> str:
    dtype = value.dtype.name.lower() if value.dtype is not None else "?"
    shape = "[?]" if value.shape is None else f"[{','.join(map(_dim, value.shape))}]"
    return f"{value.name} {dtype}{shape}"


def _dim(dim: object) -> str:
    return str(dim) if isinstance(dim, int) else str(getattr(dim, "value", None) or "?")


def _attributes(node: ir.Node) -> str:
    if not node.attributes:
        return ""
    parts = []
    for name, attribute in node.attributes.items():
        text = str(attribute.value)
        parts.append(f"{name}={text if len(text) <= _LONGEST else text[: _LONGEST - 1] + '…'}")
    return f" <{', '.join(parts)}>"
