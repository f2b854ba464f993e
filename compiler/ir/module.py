"""A module: the named ONNX graphs of one model, and what is known about them.

Until `bucket` there is one graph, "main"; afterwards one per bucket ("t4_c512"), all referring to the same weights.
Graphs are onnx-ir models; big constants are lazy (`weights.Weight`). Every node has a name: for a loaded Hugging Face
model the path of the linear without `model.` and `.weight`; for an imported ONNX graph its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from .clone import clone_model
from .levels import Level
from .samples import Samples
from .weights import Weight, as_weight

if TYPE_CHECKING:
    from .decoder_arch import DecoderArch

MAIN = "main"
_KEY = re.compile(r"t[1-9]\d*_c[1-9]\d*")


@dataclass(frozen=True)
class BucketShape:
    """A static shape: `tokens` new positions per call, `context` positions in all."""

    tokens: int
    context: int

    @property
    def name(self) -> str:
        """The bucket's key in `Module.graphs` and the manifest, `t64_c2048`."""
        return f"t{self.tokens}_c{self.context}"

    @classmethod
    def of(cls, name: str) -> BucketShape | None:
        """The bucket that `name` is the key of; None for `main` and for the buckets of a plain graph."""
        return cls.parse(name) if _KEY.fullmatch(name) else None

    @classmethod
    def parse(cls, name: str) -> BucketShape:
        """The bucket that `name` is the key of."""
        tokens, context = name.split("_")
        return cls(int(tokens[1:]), int(context[1:]))


@dataclass(repr=False)
class Module:
    """The unit passes work on. `arch` is None for an imported ONNX graph."""

    name: str
    graphs: dict[str, ir.Model]
    level: Level = Level.SEMANTIC
    arch: DecoderArch | None = None
    source: Path | None = None  # the model's folder or file
    context: int = 0
    decisions: dict[str, str] = field(default_factory=dict)  # op name -> the plan's line that decided its format
    original: ir.Model | None = None  # the graph that a decoder was read from, until it is proven beside it
    tokenizer_folder: Path | None = None  # where tokenizer.json is, if the source has one
    samples: Samples = field(default_factory=Samples)  # inputs of the main graph, of the plan: `samples.feeds(graph)`

    def __repr__(self) -> str:
        graphs = ", ".join(f"`{name}` of {len(model.graph)} nodes" for name, model in self.graphs.items())
        return f"<module {self.name}: {self.level.label}, {graphs}>"

    @property
    def main(self) -> ir.Model:
        """The one graph of a module that is not in buckets; ValueError otherwise."""
        if MAIN not in self.graphs:
            raise ValueError(f"module `{self.name}` is in buckets: it has no single graph any more")
        return self.graphs[MAIN]

    def clone(self) -> Module:
        """A copy whose graphs can be rewritten; the weights are shared."""
        graphs = {key: clone_model(model) for key, model in self.graphs.items()}
        return replace(self, graphs=graphs, decisions=dict(self.decisions))

    def nodes(self, op_type: str | None = None) -> Iterator[ir.Node]:
        """All nodes of all graphs in topological order, those of one op type if given."""
        for model in self.graphs.values():
            for node in list(model.graph):
                if op_type is None or node.op_type == op_type:
                    yield node

    def node(self, name: str) -> ir.Node | None:
        """The node of that name in the first graph that has it."""
        return next((node for node in self.nodes() if node.name == name), None)

    @staticmethod
    def producer(value: ir.Value | None) -> ir.Node | None:
        """The node that computes `value`; None for inputs, constants and absent operands."""
        return None if value is None else value.producer()

    @staticmethod
    def constant(value: ir.Value | None) -> Weight | None:
        """The constant behind an initializer or a Constant node, else None. Nothing is read."""
        return constant(value)

    @staticmethod
    def readers(value: ir.Value) -> int:
        """How many readers a value has; a graph output counts as one."""
        return len(value.uses()) + (1 if value.is_graph_output() else 0)

    @staticmethod
    def bypass(node: ir.Node, value: ir.Value) -> None:
        """Let all readers of `node`'s first output read `value`, and remove the node."""
        output, graph = node.outputs[0], node.graph
        if graph is None:
            raise ValueError(f"node `{node.name}` is in no graph")
        if output.is_graph_output():  # the interface keeps its name
            value.name, output.name = output.name, f"{output.name}.bypassed"
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def constant(value: ir.Value | None) -> Weight | None:
    """The constant behind `value`: an initializer, or the output of a Constant node."""
    if value is None:
        return None
    if value.const_value is not None:
        return as_weight(value.const_value)
    node = value.producer()
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        return as_weight(node.attributes["value"].as_tensor())
    return None


def initializer(graph: ir.Graph, name: str, tensor: Weight) -> ir.Value:
    """Register `tensor` as the initializer `name` of `graph` (the value that is there already, if it is)."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor.name = name
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.dims), const_value=tensor)
    graph.register_initializer(value)
    return value


def drop_unread_nodes(graph: ir.Graph, which: Callable[[ir.Node], bool]) -> None:
    """Remove those of the nodes `which` picks that nothing reads any more, and then what only they read of them."""
    for node in reversed(list(graph)):
        if which(node) and not any(Module.readers(value) for value in node.outputs):
            graph.remove(node, safe=True)


def drop_unused_initializers(graph: ir.Graph) -> None:
    """Forget constants that nothing reads any more (a quantised weight's float form)."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
