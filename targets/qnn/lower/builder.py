"""Write one target-level graph: fp16 values with static shapes, nodes named `<source node>/<step>`, shared weights.

The source's name before the slash is what diagnostics show and what a plan can name. Weights are converted once per
model: `WeightStore` hands every bucket the same tensor object, which is how buckets come to share bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import Diagnostic, fail
from ....compiler.diagnostics.warn import warn
from ....compiler.emit.refusals import refuse
from ....compiler.ir.annotations import Transform
from ....compiler.ir.save import INLINE_BYTES
from ....compiler.ir.weights import DryWeight, Weight, derive, from_array

FP16 = ir.DataType.FLOAT16
FP16_MAX = 65504.0
FP16_LEAST, FP16_NOTHING = 2.0**-14, 2.0**-25  # below them: fewer digits; zero
OPSET, CONTRIB_OPSET = 23, 1
CONTRIB = "com.microsoft"
ON_CPU = "`place (device = cpu) on {on}` runs it on the CPU"  # the help of most refusals


class WeightStore:
    """The weights of all graphs of one model in the form the HTP compiler takes, each made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Weight] = {}

    def get(self, source: Weight, form: str, make: Callable[[], Weight]) -> Weight:
        """The `form` of `source`, made on first use."""
        # by name and origin, not by object: an imported graph's tensors are wrapped anew in every bucket
        key = (source.name, source.origin, source.dims, source.dtype, form)
        if key not in self._made:
            made = make()
            if made.nbytes <= INLINE_BYTES and not isinstance(source, DryWeight):
                # these lie inside the .onnx file: made now, so that a bad value is said here and not while it is saved
                made = from_array(made.name, made.numpy(), made.origin)
            self._made[key] = made
        return self._made[key]

    def half(self, source: Weight, name: str | None = None) -> Weight:
        """`source` in fp16; a value that fp16 cannot hold is an error when the rows are made, one that is lost now."""
        return self.get(source, "fp16", lambda: to_half(_not_lost(source), name or source.name))


def to_half(source: Weight, name: str) -> Weight:
    """Rows in fp16, checked for overflow."""
    if source.dtype == FP16:
        return source
    return derive(
        name, FP16, source.dims, lambda a, b: checked_half(source.rows(a, b), name), source, Transform.CAST, "fp16"
    )


def _not_lost(source: Weight) -> Weight:
    """`source`, unless all of its values lie where fp16 has fewer digits, or none: E0630 for a matrix, else W0630.

    Blocks are read up to the first value that fp16 holds whole, which as a rule is in the first one.
    """
    largest = 0.0
    if isinstance(source, DryWeight) or source.dtype == FP16:
        return source
    for _, block in source.blocks() if source.dims else [(0, source.numpy())]:
        largest = max(largest, float(np.abs(block.astype(np.float32)).max(initial=0.0)))
        if largest >= FP16_LEAST:
            return source
    if largest > 0.0:
        lost = f"`{source.name}` has no value above {largest:.3g}, and below {FP16_LEAST:.2g} fp16 "
        lost += "loses digits" if largest >= FP16_NOTHING else "holds nothing"
        if len(source.dims) > 1:
            fail("E0630", lost, help="scale the weight up and what reads its result down, or place the op on cpu")
        warn(Diagnostic("W0630", lost, help="place the op that reads it on cpu if that matters", severity="warning"))
    return source


def checked_half(array: np.ndarray, name: str) -> np.ndarray:
    """`array` in fp16; |w| > 65504 has no fp16 form."""
    wide = array.astype(np.float32)
    if wide.size and not float(np.abs(wide).max()) <= FP16_MAX:
        fail(
            "E0630",
            f"`{name}` has a value that fp16 cannot represent: its largest magnitude is {np.abs(wide).max():g}, "
            f"the limit {FP16_MAX:g}",
            help="quantise this weight, or place the op on cpu",
        )
    return wide.astype(np.float16)


class Builder:
    """Collects nodes, inputs and initializers of one graph; `at(name)` sets the source of what follows."""

    def __init__(self, name: str, store: WeightStore, float_type: ir.DataType = FP16) -> None:
        self.name, self.store, self.float_type = name, store, float_type
        self.inputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._taken: set[str] = set()
        self._source = ""
        self._contrib = False

    def at(self, source: str) -> None:
        """Ops added from now on come from the node `source`; errors name it."""
        self._source = source

    def input(self, name: str, shape: Sequence[int], dtype: ir.DataType | None = None) -> ir.Value:
        """A new graph input of static `shape`, of the float type unless `dtype` is given."""
        value = ir.Value(name=name, type=ir.TensorType(dtype or self.float_type), shape=ir.Shape(shape))
        self._taken.add(name)
        self.inputs.append(value)
        return value

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        shape: Sequence[int],
        step: str = "",
        dtype: ir.DataType | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """Append a node and return its output."""
        name = self._unique(f"{self._source}/{step or op_type.lower()}")
        output = ir.Value(name=name, type=ir.TensorType(dtype or self.float_type), shape=ir.Shape(shape))
        attrs = ir.convenience.convert_attributes(attributes)
        self._nodes.append(ir.Node(domain, op_type, inputs, attrs, outputs=[output], name=name))
        self._contrib |= domain == CONTRIB
        return output

    def reshape(self, value: ir.Value, shape: Sequence[int], step: str = "reshape") -> ir.Value:
        """`value` in another shape; nothing when it has that shape already."""
        if static_shape(value) == tuple(shape):
            return value
        return self.op("Reshape", value, self.ints(*shape), shape=shape, step=step, dtype=value.dtype)

    def slice(self, value: ir.Value, start: int, stop: int, step: str) -> ir.Value:
        """`value[..., start:stop]`."""
        shape = (*static_shape(value)[:-1], stop - start)
        return self.op("Slice", value, self.ints(start), self.ints(stop), self.ints(-1), shape=shape, step=step)

    def ints(self, *values: int) -> ir.Value:
        """An int64 vector constant, one per content."""
        name = "const.i64." + "_".join(str(value) for value in values)
        return self._constant(name, lambda: np.array(values, np.int64))

    def scalar(self, value: float) -> ir.Value:
        """A float scalar constant, one per content."""
        if self.float_type != FP16:
            return self._constant(f"const.f32.{value!r}", lambda: np.array(value, np.float32))
        return self._constant(f"const.f16.{value!r}", lambda: np.array(checked_half(np.array(value), "constant")))

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A small constant, one per name."""
        return self._constant(name, lambda: array)

    def _constant(self, name: str, make: Callable[[], np.ndarray]) -> ir.Value:
        if name in self._initializers:
            return self._initializers[name]
        return self.weight(from_array(name, make()), name)

    def weight(self, weight: Weight, name: str) -> ir.Value:
        """An initializer; one name stands for one tensor."""
        known = self._initializers.get(name)
        if known is not None and known.const_value is weight:
            return known
        name = self._unique(name)
        value = ir.Value(name=name, type=ir.TensorType(weight.dtype), shape=ir.Shape(weight.dims), const_value=weight)
        self._initializers[name] = value
        return value

    def take_nodes(self) -> list[ir.Node]:
        """The nodes so far, for somebody who appends them again in another form."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def append(self, node: ir.Node) -> None:
        """Add a node that was made elsewhere."""
        self._nodes.append(node)

    def fresh(self, name: str) -> str:
        """`name`, or with a number behind it what no value has yet."""
        return self._unique(name)

    def finish(self, outputs: Sequence[tuple[str, ir.Value]]) -> ir.Model:
        """The model, with its outputs under the names they must have."""
        named = [self._output(name, value) for name, value in outputs]
        imports = {"": OPSET} | ({CONTRIB: CONTRIB_OPSET} if self._contrib else {})
        read = {value for node in self._nodes for value in node.inputs}
        graph = ir.Graph(
            self.inputs,
            named,
            nodes=self._nodes,
            initializers=[value for value in self._initializers.values() if value in read],
            opset_imports=imports,
            name=self.name,
        )
        return ir.Model(graph, ir_version=11, producer_name="edgec")

    def _output(self, name: str, value: ir.Value) -> ir.Value:
        node = value.producer()
        if node is None or value.name in {i.name for i in self.inputs} or value.metadata_props.get("output"):
            self.at(name)  # an input handed through, or one value under two names
            value = self.op("Identity", value, shape=static_shape(value), dtype=value.dtype)
        value.metadata_props["output"] = name
        value.name = name
        return value

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(candidate)
        return candidate


def refuse_output(value: ir.Value, what: str) -> NoReturn:
    """Refuse an output that is an input or a constant, as `what` says."""
    refuse(
        "E0634",
        f"output {{}} is {what} as it stands, and an NPU graph gives only what it computes",
        value.name or "",
        help="leave it out of the outputs of the model",
    )


def static_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape as integers; a symbolic dimension cannot be compiled and is refused."""
    if value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        refuse(
            "E0631",
            f"the shape of {{}} is not static: {value.shape}",
            value.name or "",
            help="a pipeline for the NPU ends with `bucket(tokens = …, context = …)`; "
            "an imported graph gets sizes from `shapes = { NAME: [1, 3, 224, 224] }` in its `model` block",
            cause="shape",
            alone=False,
        )
    return tuple(int(dim) for dim in value.shape if isinstance(dim, int))
