"""What is legal at each level, as a table of small named rules; run between passes.

A rule yields a sentence for each thing that is wrong. `violations` prefixes it with the rule's name:

    node-names: graph `main` has two nodes named `layers.0.mlp.act`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from ...diagnostics.diagnostic import EngineError, Span, fail
from ..annotations import DEVICE, faults
from ..domains import OWN_DOMAIN, RUNTIME_DOMAINS
from ..levels import Level
from ..module import MAIN, Module
from ..ops.find_op import definition_of
from ..opset import OPSET
from ..save import INLINE_BYTES
from .quantised_weights import dequantised_weights, described
from .shapes import decoder_interface, static_shapes

DEVICES = ("cpu", "npu")
_SHOWN = 5

Found = Iterator[str]


@dataclass(frozen=True)
class LegalityRule:
    """`check` holds at every level from `first` to `last`."""

    name: str
    check: Callable[[Module], Found]
    first: Level = Level.SEMANTIC
    last: Level = Level.TARGET


def violations(module: Module) -> list[str]:
    """Everything that is not legal at the module's level; empty when all is well."""
    active = [rule for rule in RULES if rule.first <= module.level <= rule.last]
    return [f"{rule.name}: {text}" for rule in active for text in rule.check(module)]


def enforce(module: Module, after: str, at: Span | None = None) -> None:
    """Fail if the module is not legal; `after` says which step left it so, `at` is its line."""
    found = violations(module)
    if found:
        more = f"\nand {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        message = f"after {after} the module `{module.name}` is not a legal `{module.level.label}` module"
        fail("E0410", message, at, help="\n".join(found[:_SHOWN]) + more, kind=EngineError)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    """All nodes, those of subgraphs (If, Loop, Scan) included."""
    return iter(model.graph.all_nodes())


def _graph_names(module: Module) -> Found:
    if module.level < Level.STATIC and list(module.graphs) != [MAIN]:
        yield f"there is one graph `{MAIN}` before buckets, not {', '.join(f'`{key}`' for key in module.graphs)}"
    if not module.graphs:
        yield "there is no graph"


def _node_names(module: Module) -> Found:
    for key, model in module.graphs.items():
        seen: set[str] = set()
        for node in _nodes(model):
            if not node.name:
                yield f"graph `{key}` has a node without a name ({node.op_type})"
            elif node.name in seen:
                yield f"graph `{key}` has two nodes named `{node.name}`"
            seen.add(node.name or "")


def _value_names(module: Module) -> Found:
    for key, model in module.graphs.items():
        graph = model.graph
        made = [output for node in graph for output in node.outputs if output.uses() or output.is_graph_output()]
        seen: dict[str, ir.Value] = {}
        for value in (*graph.inputs, *graph.initializers.values(), *made):
            if not value.name:
                yield f"graph `{key}` has a value without a name, made by `{_maker(value)}`"
            elif seen.setdefault(value.name, value) is not value:
                yield f"graph `{key}` has two values named `{value.name}`"


def _order(module: Module) -> Found:
    for key, model in module.graphs.items():
        graph = model.graph
        known = {id(value) for value in (*graph.inputs, *graph.initializers.values())}
        for node in graph:
            for value in node.inputs:
                if value is not None and id(value) not in known:
                    yield f"`{node.name}` in graph `{key}` reads `{value.name}` before it is made"
            known.update(id(output) for output in node.outputs)
        for value in graph.outputs:
            if id(value) not in known:
                yield f"output `{value.name}` of graph `{key}` is made by no node"


def _interface(module: Module) -> Found:
    for key, model in module.graphs.items():
        graph = model.graph
        if not graph.outputs:
            yield f"graph `{key}` has no output"
        for value in graph.inputs:
            if value.name in graph.initializers:
                yield f"input `{value.name}` of graph `{key}` is an initializer too"
        for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
            for value in values:
                if value.dtype is None:
                    yield f"{kind} `{value.name}` of graph `{key}` has no type"


def _opset(module: Module) -> Found:
    for key, model in module.graphs.items():
        found = model.graph.opset_imports.get("")
        if found != OPSET:
            yield f"graph `{key}` imports opset {found}, not {OPSET}"


def _domains(module: Module) -> Found:
    for key, model in module.graphs.items():
        bodies = [node for function in model.functions.values() for node in function]
        for node in (*_nodes(model), *bodies):
            yield from (f"`{node.name}` in graph `{key}` {why}" for why in _domain_faults(module, model, node))


def _domain_faults(module: Module, model: ir.Model, node: ir.Node) -> Found:
    if node.domain in ("", "ai.onnx"):
        if not onnx.defs.has(node.op_type, max_inclusive_version=OPSET):
            yield f"is a {node.op_type}, which is not in ONNX opset {OPSET}"
    elif node.domain == OWN_DOMAIN:
        if node.op_identifier() not in model.functions:
            yield f"is an {OWN_DOMAIN}::{node.op_type} without a function body"
        elif (definition := definition_of(node)) is None:
            yield f"is an {OWN_DOMAIN}::{node.op_type}, which no installed package defines"
        elif not definition.same_body(model.functions[node.op_identifier()]):
            yield f"is an {OWN_DOMAIN}::{node.op_type} whose body is not that of its definition"
    elif node.domain not in RUNTIME_DOMAINS:
        yield f"is a {node.domain}::{node.op_type}; that domain is not legal here"
    if node.domain not in ("", "ai.onnx") and node.domain not in model.graph.opset_imports:
        yield f"is of the domain {node.domain}, which the model does not import"


def _constants(module: Module) -> Found:
    for key, model in module.graphs.items():
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                yield f"initializer `{name}` of graph `{key}` has no data"
            elif value.dtype != tensor.dtype or value.shape != tensor.shape:
                stated = f"{'untyped' if value.dtype is None else value.dtype.name.lower()}{value.shape or '[?]'}"
                yield f"initializer `{name}` of graph `{key}` is stated as {stated}, its data is {described(tensor)}"


def _devices(module: Module) -> Found:
    for key, model in module.graphs.items():
        placed = {node: DEVICE.get(node) for node in model.graph}
        if module.level > Level.PLACED and not any(placed.values()):
            continue  # a plan without `place`: the whole graph goes where its deploy says
        for node, device in placed.items():
            if device is None:
                yield f"`{node.name}` in graph `{key}` has no device"
            elif device not in DEVICES:
                yield f"`{node.name}` in graph `{key}` is on `{device}`, which is neither cpu nor npu"


def _shared_weights(module: Module) -> Found:
    first: dict[str, tuple[str, ir.TensorProtocol]] = {}
    for key, model in module.graphs.items():
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= INLINE_BYTES:  # shapes and positions may differ
                continue
            other, shared = first.setdefault(name, (key, tensor))
            if shared is not tensor:
                yield f"`{name}` is another tensor in graph `{key}` than in `{other}`"


def _maker(value: ir.Value) -> str:
    node = value.producer()
    return (node.name or node.op_type) if node is not None else "the interface"


RULES = (
    LegalityRule("graph-names", _graph_names),
    LegalityRule("node-names", _node_names),
    LegalityRule("value-names", _value_names),
    LegalityRule("order", _order),
    LegalityRule("interface", _interface),
    LegalityRule("opset", _opset, last=Level.STATIC),  # at `target` an emitter may want another one
    LegalityRule("domains", _domains),
    LegalityRule("constants", _constants),
    LegalityRule("annotations", faults),
    LegalityRule("decoder-interface", decoder_interface),
    LegalityRule("dequantised-weights", dequantised_weights),
    LegalityRule("devices", _devices, first=Level.PLACED, last=Level.STATIC),
    LegalityRule("static-shapes", static_shapes, first=Level.STATIC, last=Level.STATIC),
    LegalityRule("shared-weights", _shared_weights, first=Level.STATIC),
)
