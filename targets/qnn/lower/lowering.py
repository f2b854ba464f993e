"""Lower one static graph to what the HTP compiler takes: fp16, Genie's interface, only ops known to be right.

    static level (float32 activations)                      target level (fp16)
    input_ids int32 [1,S]                                   the same
    attention_mask [1,1,S,C], C = P + S                     the same, fp16
    position_ids [1,S] and the rotary prologue              position_ids_cos, position_ids_sin [1,1,S,HD/2]
    past_key_i_in [1,KV,P,HD]                               [KV,1,HD,P]      (keys lie transposed in the cache)
    past_value_i_in [1,KV,P,HD]                             [KV,1,P,HD]
    past_key_i_out, past_value_i_out [1,KV,S,HD]            [KV,1,HD,S], [KV,1,S,HD]

Every other input and output keeps name and shape; float32 becomes fp16, int64 inputs int32. Where the graph's
activations are integers (`compiler/ir/activation_encodings.py`), floats become uint16 or uint8 instead: see
`integer_activations.py`. An op has one of the rules that are handed in (`rules.RULES`), or is an error. Each rule notes
what it used (`Use`), which `conformance/legality.py` looks up in the conformance table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import PlanError
from ....compiler.emit.capabilities import Refusal
from ....compiler.emit.conformance.op_class import Cell, Use
from ....compiler.emit.refusals import Refusals, Refused, grouped, refuse
from ....compiler.ir import kv_names
from ....compiler.ir.activation_encodings import Encoding, encoding_of, quantised
from ....compiler.ir.attributes import Value
from ....compiler.ir.module import constant
from .builder import FP16, ON_CPU, Builder, WeightStore, refuse_output, static_shape
from .integer_activations import Integers
from .op_classes import CLASSES
from .written_rows import in_rows

COS, SIN = "position_ids_cos", "position_ids_sin"


@dataclass
class Lowered:
    """A target-level graph. `sources` says what each input carries where that is not its own name."""

    model: ir.Model
    uses: list[Use]
    sources: dict[str, str]
    encodings: dict[str, Encoding] = field(default_factory=dict)  # of the inputs and outputs that are integers


Rule = Callable[["Lowering", ir.Node], "ir.Value | list[ir.Value]"]  # makes the value(s) of a node's outputs


class Lowering:
    """The state of lowering one graph; rules read `value`, build with `build`, and note with `use`."""

    def __init__(
        self,
        name: str,
        graph: ir.Graph,
        store: WeightStore,
        rules: Mapping[str, Rule],
        least_rows: int = 1,
        span: float | None = None,
    ) -> None:
        self.graph, self.least_rows = graph, least_rows
        self._rules = rules
        self.integers = Integers(graph, span) if quantised(graph) else None
        self.build = Builder(name, store, FP16 if self.integers is None else ir.DataType.FLOAT)
        self.uses: dict[Use, None] = {}
        self.repeated: dict[ir.Value, ir.Value] = {}  # what linears read -> the same with `least_rows` rows
        self.sources: dict[str, str] = {}
        self._active: set[ir.Value | None] = set()  # values that depend on an input
        self._values: dict[ir.Value, ir.Value] = {}
        self._keys: dict[ir.Value, ir.Value] = {}
        self._caches: dict[ir.Value, ir.Value] = {}
        self._rotary = _rotary_values(graph)
        self.refused: list[Refusal] = []

    def run(self) -> Lowered:
        """The target-level graph; PlanError with everything that has no form."""
        outputs = self.visit()
        if self.refused:
            raise PlanError(*grouped(self.refused))
        if self.integers is None:
            return Lowered(self.build.finish(outputs), list(self.uses), self.sources)
        model, encodings = self.integers.finish(self.build, outputs)
        return Lowered(model, list(self.uses), self.sources, encodings)

    def visit(self) -> list[tuple[str, ir.Value]]:
        """Inputs, nodes in order, outputs; afterwards `uses` and `refused` are complete.

        Nodes that compute constants or the rotary prologue are not lowered. Behind inputs without a static shape
        nothing can be said.
        """
        for value in self.graph.inputs:
            try:
                self._declare(value)
            except Refused as problem:
                self.refused.append(problem.refusal)
        if self.refused:
            return []
        refusals = Refusals()
        for node in self.graph:
            if self._wanted(node):
                self._active.update(node.outputs)
                self._visit(node, refusals)
        self.refused += refusals.found
        outputs = []
        for value in self.graph.outputs:
            try:
                outputs.append((value.name or "", in_rows(self.build, self._output(value), self.integers)))
            except Refused as problem:
                self.refused.append(problem.refusal)
        return outputs

    def _visit(self, node: ir.Node, refusals: Refusals) -> None:
        self.build.at(node.name or node.op_type)
        try:
            if self.integers is not None and encoding_of(node) is not None:
                self._through(node, self.integers)
                return
            rule = self._rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            made = _no_rule(node) if rule is None else rule(self, node)
            _refuse_integers(node, made)
        except Refused as problem:
            refusals.add(node, problem.refusal)
            made = [self._stand_in(value) for value in node.outputs]
        self._values.update(zip(node.outputs, made if isinstance(made, list) else [made], strict=False))

    def _stand_in(self, value: ir.Value) -> ir.Value:
        """What a refused node would have made, as far as the nodes behind it look: a type, a shape, a range."""
        shape = [dim if isinstance(dim, int) else 1 for dim in value.shape or ()]
        floats = value.dtype is None or value.dtype.is_floating_point()
        made = self.build.op("Identity", shape=shape, step="refused", dtype=None if floats else value.dtype)
        if self.integers is not None and floats:
            self.integers.encode(self.build, made, Encoding.over(-1.0, 1.0, "uint16"))
        return made

    def _through(self, node: ir.Node, integers: Integers) -> None:
        """One half of a pair: it says how integers are read, and computes nothing unless it changes that."""
        source, made, encoding = node.inputs[0], node.outputs[0], encoding_of(node)
        if source is None or encoding is None:
            raise ValueError(f"`{node.name}` is no half of a pair")
        if source in self._caches:
            self._caches[made] = integers.encode(self.build, self._caches[source], encoding)
        else:
            self._values[made] = integers.encode(self.build, self.value(source), encoding)

    def value(self, value: ir.Value | None) -> ir.Value:
        """The lowered form of an activation, or a float constant in fp16 (integers stay as they are)."""
        if value is None:
            raise ValueError("an optional input that is absent has no value")
        if value in self._values:
            return self._values[value]
        held = constant(value)
        if held is None:
            refuse(
                "E0632",
                "{} is computed from constants only, and HTP graphs cannot contain such ops",
                value.name or "",
                help="fold the constant part of the graph before deploying it",
            )
        halve = self.integers is None and held.dtype.is_floating_point()
        weight = self.build.store.half(held) if halve else held
        self._values[value] = self.build.weight(weight, value.name or "constant")
        return self._values[value]

    def use(self, lowering: str, node: ir.Node, given: Mapping[str, Value] | None = None, **cells: Cell) -> None:
        """Note that `node` became `lowering`: at these numbers and words, and the attributes of `node`.

        `given` are the attributes as they are emitted, where they differ from the node's.
        """
        if self.integers is not None and "." not in lowering.removeprefix("op."):
            lowering = f"u16.{lowering}"
        self.uses.setdefault(Use(lowering, CLASSES.shape(node, cells, given), node.name or node.op_type))

    def cache(self, value: ir.Value | None) -> ir.Value | None:
        """A K/V cache input in its own layout; None when `value` is not one."""
        return None if value is None else self._caches.get(value)

    def key_columns(self, value: ir.Value) -> ir.Value:
        """New keys as the cache holds them: [1,KV,S,HD] -> [KV,1,HD,S]; made once per value."""
        if value not in self._keys:
            _, heads, tokens, size = static_shape(value)
            self._keys[value] = self.build.op(
                "Transpose", self.value(value), shape=(heads, 1, size, tokens), step="key_columns", perm=[1, 0, 3, 2]
            )
        return self._keys[value]

    def value_rows(self, value: ir.Value) -> ir.Value:
        """New values as the cache holds them: [1,KV,S,HD] -> [KV,1,S,HD]."""
        _, heads, tokens, size = static_shape(value)
        return self.build.reshape(self.value(value), (heads, 1, tokens, size), "value_rows")

    def rotary(self, cos: ir.Value, sin: ir.Value) -> tuple[ir.Value, ir.Value]:
        """cos and sin [1,1,S,HD/2] of a RotaryEmbedding: the graph's inputs, or computed by the graph itself."""
        return self._angle(cos, COS), self._angle(sin, SIN)

    def _angle(self, value: ir.Value, name: str) -> ir.Value:
        if value in self._values:
            made = self._values[value]
            batch, tokens, half = static_shape(made)[0], static_shape(made)[-2], static_shape(made)[-1]
            return self.build.reshape(made, (batch, 1, tokens, half), "angles")
        _, tokens, half = static_shape(value)
        if any(given.name == name for given in self.build.inputs):
            refuse(
                "E0633",
                f"the graph has two different rotary embeddings; Genie's interface has one `{name}`",
                help="deploy this model on cpu",
            )
        self._values[value] = self.build.input(name, (1, 1, tokens, half))
        if self.integers is not None:
            reach = _amplitude(value)
            self.integers.encode(self.build, self._values[value], Encoding.over(-reach, reach, "uint16"))
        self.sources[name] = "rotary.cos" if name == COS else "rotary.sin"
        return self._values[value]

    def _declare(self, value: ir.Value) -> None:
        name = value.name or ""
        if not value.uses() and not value.is_graph_output():
            return  # an NPU graph has no input that it does not read
        if value in self._rotary or value.const_value is not None:
            return  # cos and sin take their place when a RotaryEmbedding asks for them
        self._active.add(value)
        shape = static_shape(value)
        cached = kv_names.parse(name)
        if cached is not None and cached.direction == kv_names.IN and len(shape) == 4:
            _, heads, past, size = shape
            layout = (heads, 1, size, past) if cached.kind == kv_names.KEY else (heads, 1, past, size)
            self._caches[value] = self.build.input(name, layout)
            return
        self._values[value] = self.build.input(name, shape, _interface_dtype(value, self.build.float_type))

    def _output(self, value: ir.Value) -> ir.Value:
        name = value.name or ""
        self.build.at(name)
        if value.is_graph_input() or constant(value) is not None:
            what = "an input" if value.is_graph_input() else "a constant"
            refuse_output(value, what)
        cached = kv_names.parse(name)
        if cached is None or cached.direction == kv_names.IN:
            return self.value(value)
        return self.key_columns(value) if cached.kind == kv_names.KEY else self.value_rows(value)

    def _wanted(self, node: ir.Node) -> bool:
        """Whether the node computes activations: not constants, not the rotary prologue."""
        if node.outputs[0] in self._rotary:
            return False
        return any(value in self._active for value in node.inputs)


def _interface_dtype(value: ir.Value, float_type: ir.DataType) -> ir.DataType:
    if value.dtype is not None and value.dtype.is_floating_point():
        return float_type
    return ir.DataType.INT32 if value.dtype == ir.DataType.INT64 else value.dtype or float_type


def _amplitude(value: ir.Value) -> float:
    """What cos or sin is multiplied by before it is used (rope scaling has such a factor)."""
    node = value.producer()
    if node is None or node.op_type != "Mul":
        return 1.0
    factors = [float(held.numpy()) for held in map(constant, node.inputs) if held is not None and not held.dims]
    return max((abs(factor) for factor in factors), default=1.0)


def _rotary_values(graph: ir.Graph) -> set[ir.Value]:
    """Values that serve only to make the angles of RotaryEmbedding nodes: they become inputs of their own."""
    readers = [node for node in graph if node.op_type == "RotaryEmbedding"]
    found: set[ir.Value] = set()
    work = [value for node in readers for value in node.inputs[1:3] if value is not None]
    angle_readers = set(readers)
    while work:
        value = work.pop()
        if value in found or value.const_value is not None or value.is_graph_output():
            continue
        if all(user in angle_readers for user, _ in value.uses()):
            found.add(value)
            producer = value.producer()
            if producer is not None:
                angle_readers.add(producer)
                work += [i for i in producer.inputs if i is not None]
    return found


def without_rule(graph: ir.Graph, rules: Mapping[str, Rule]) -> list[ir.Node]:
    """Standard ops that a lowering of `graph` would meet and has no rule for."""
    rotary = _rotary_values(graph)
    active: set[ir.Value | None] = {x for x in graph.inputs if x not in rotary and x.const_value is None}
    found = []
    for node in graph:
        if node.outputs[0] in rotary or not any(value in active for value in node.inputs):
            continue
        active.update(node.outputs)
        known = node.op_type in rules or node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if node.domain in ("", "ai.onnx") and not known:
            found.append(node)
    return found


def _refuse_integers(node: ir.Node, made: ir.Value | list[ir.Value]) -> None:
    """Rules compute in floats: what a node computes in integers has no form, what it moves keeps its type."""
    first, wanted = made[0] if isinstance(made, list) else made, node.outputs[0].dtype
    floats = first.dtype is None or first.dtype.is_floating_point()
    if wanted is not None and floats and not wanted.is_floating_point():
        kind = wanted.name.lower()
        refuse("E0634", f"{{}}: {node.op_type} of {kind} has no lowering for HTP", node.name or "", help=ON_CPU)


def _no_rule(node: ir.Node) -> NoReturn:
    domain = f" of the domain `{node.domain}`" if node.domain else ""
    refuse("E0621", f"{{}}: the qnn target has no lowering for `{node.op_type}`{domain}", node.name or "", ON_CPU)
