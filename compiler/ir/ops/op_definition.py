"""What an op of the domain `ai.edgec` is: a name, attributes, a body of standard ops, and what tools ask about it.

    class PackedLinear(OpDefinition):
        name = "PackedLinear"
        body = '''PackedLinear <block_size: int = 32> (x, packed, scale) => (y) { ... }'''

The body is the op's meaning: textual ONNX, opset 24, standard ops only. ONNX Runtime runs it where no kernel is
registered, the legality of every level compares a model's function with it, calibration interprets it. Attributes and
their defaults are those that the body declares.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnx
import onnx_ir as ir

from ..domains import OWN_DOMAIN
from ..module import constant
from ..opset import OPSET

if TYPE_CHECKING:
    import numpy as np

    from ..linears import Linear

_HEAD = f'<domain: "{OWN_DOMAIN}", opset_import: ["": {OPSET}]>'


@dataclass(frozen=True)
class Cost:
    """What one call takes: bytes of constants that are read, and operations (a multiply-add counts as two)."""

    bytes: int
    operations: int


@dataclass(frozen=True)
class OpExample:
    """A graph with this op alone, its feeds, and the outputs, computed without the body."""

    model: ir.Model
    feeds: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


class OpDefinition:
    """Base of all own ops. Installed through the entry point group `edgec.ops`, under the op's name."""

    name: ClassVar[str]
    body: ClassVar[str]

    def as_weight_use(self, node: ir.Node) -> Linear | None:
        """The weight [N, K] that `node` multiplies by, of kind `own`; None for an op that has none.

        What is given here is listed by manifest, report and inspect, and counts in errors and bits.
        """
        return None

    def cost(self, node: ir.Node, rows: int) -> Cost:
        """What one call on `rows` rows of activations takes. By default that of a linear over the op's constants."""
        held = [weight.nbytes for weight in map(constant, node.inputs) if weight is not None]
        linear = self.as_weight_use(node)
        if linear is None:
            raise NotImplementedError(f"the op `{self.name}` does not state its cost")
        n, k = linear.shape[:2]
        return Cost(sum(held), 2 * n * k * rows)

    def example(self) -> OpExample:
        """A graph of this op alone, on which tests hold body, weight use and calibration against `expected`."""
        raise NotImplementedError(f"the op `{self.name}` has no example")

    @functools.cached_property
    def proto(self) -> onnx.FunctionProto:
        """The body; ValueError if the text does not parse, or defines an op of another name."""
        try:
            made = onnx.parser.parse_function(f"{_HEAD}\n{self.body}")
        except onnx.parser.ParseError as error:
            raise ValueError(f"the body of `{self.name}` does not parse: {error}") from error
        if made.name != self.name:
            raise ValueError(f"the body of `{self.name}` defines `{made.name}`")
        return made

    def function(self) -> ir.Function:
        """A copy of the body for a model."""
        return ir.from_proto(self.proto)

    def body_of(self, node: ir.Node) -> ir.Function:
        """The body with the attributes of `node` put in: only standard ops, nothing to refer to."""
        made = onnx.FunctionProto()
        made.CopyFrom(self.proto)
        given = {attribute.name: attribute for attribute in made.attribute_proto}
        given.update({name: ir.to_proto(attribute) for name, attribute in node.attributes.items()})
        for inner in made.node:
            for attribute in inner.attribute:
                if attribute.ref_attr_name:
                    name, found = attribute.name, given[attribute.ref_attr_name]
                    attribute.CopyFrom(found)
                    attribute.name = name
        return ir.from_proto(made)

    def node(
        self, model: ir.Model, name: str, inputs: Sequence[ir.Value | None], output: ir.Value, **attributes: Any
    ) -> ir.Node:
        """A node of this op that makes `output`, for the graph of `model`; puts the body into the model as well."""
        made = ir.Node(
            OWN_DOMAIN, self.name, inputs, ir.convenience.convert_attributes(attributes), outputs=[output], name=name
        )
        model.graph.opset_imports[OWN_DOMAIN] = 1
        if made.op_identifier() not in model.functions:
            model.functions[made.op_identifier()] = self.function()
        return made

    def same_body(self, function: ir.Function) -> bool:
        """Whether a model's function is this op's body; names of nodes and inferred shapes aside."""
        return _bare(ir.to_proto(function)) == self._own_bytes

    @functools.cached_property
    def _own_bytes(self) -> bytes:
        return _bare(ir.to_proto(self.function()))


def _bare(proto: onnx.FunctionProto) -> bytes:
    """What a function computes, as bytes."""
    made = onnx.FunctionProto()
    made.CopyFrom(proto)
    made.ClearField("doc_string")
    made.ClearField("value_info")
    made.ClearField("metadata_props")
    for node in made.node:
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
        attributes = sorted(node.attribute, key=lambda attribute: attribute.name)
        del node.attribute[:]
        node.attribute.extend(attributes)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            attribute.t.ClearField("name") if attribute.HasField("t") else None
    return made.SerializeToString(deterministic=True)
