"""A general ONNX graph as an MNN graph, one op after the other (`ops.py`).

Tensors keep the names of the ONNX values, so that any of them can be read back. Linears become 1x1 convolutions:

    y[.., N] = x[.., K] @ W^T + b      x -> [M, K, 1, 1] packed -> convolution -> [.., N],   M the product of ..

Their weights go to the weight file; so do big tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import numpy as np
import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import PlanError
from ....compiler.emit.capabilities import Refusal
from ....compiler.emit.refusals import Refusals, Refused, grouped, refuse
from ....compiler.ir.linears import Linear, as_linear, as_quantized
from ....compiler.ir.module import constant
from ....compiler.ir.weights import DryWeight, numbers
from ..conformance.table import check_format
from ..file import op_parameters as tables
from ..file import weight_blobs as blobs
from ..file.op_parameters import OpParameters
from ..file.weight_blobs import Blob
from ..file.writer import Net
from .op_classes import use_of
from .ops import HANDLERS

if TYPE_CHECKING:
    from ....compiler.emit.conformance.legality import Legality
    from ....compiler.emit.conformance.op_class import Use
    from ....compiler.ir.module import Module

_INLINE = 1 << 16  # elements of a constant that still goes through JSON
_TYPES = {
    ir.DataType.FLOAT: "DT_FLOAT",
    ir.DataType.INT32: "DT_INT32",
    ir.DataType.INT64: "DT_INT32",  # MNN has no int64: the values have to fit, as ids do
}
_ALIASES = ("Identity", "Dropout")
_LARGEST = 1 << 31  # bytes of a constant in the weight file; MNN dies of larger ones
_MOVES = ("Concat", "Flatten", "Gather", "Reshape", "Squeeze", "Transpose", "Unsqueeze")  # any 32 bits go through whole


class GraphLowering:
    """One pass over the graph; `net` is the result. `legality`: what MNN runs right (None: being found out)."""

    def __init__(self, module: Module, weights: BinaryIO, legality: Legality | None) -> None:
        self.module, self.file, self.legality = module, weights, legality
        self.net = Net()
        self.blobs: dict[str, Blob] = {}
        self.linears: dict[str, Linear] = {}
        self._values: dict[ir.Value, int] = {}
        self.refused: list[Refusal] = []

    def run(self) -> None:
        """Lower the whole graph; PlanError with everything that MNN cannot run (E0710, E0707)."""
        self.visit()
        if self.refused:
            raise PlanError(*grouped(self.refused))

    def visit(self) -> None:
        """Inputs and nodes in order; afterwards `refused` is complete."""
        graph, refusals = self.module.main.graph, Refusals()
        self.net.reserve(_names(graph))
        for value in graph.inputs:
            kind = None if value.dtype is None or value.shape is None else _TYPES.get(value.dtype)
            if kind is None:
                message = f"input {{}} of `{self.module.name}` is of a type or shape MNN cannot take"
                self.refused.append(Refusal("E0710", message, value.name or ""))
            dims = [d if isinstance(d, int) else -1 for d in value.shape or ()]
            self._values[value] = self.net.input(value.name or "", dims, kind or "DT_FLOAT")
        for node in graph:
            try:
                self._visit(node)
            except Refused as problem:
                refusals.add(node, problem.refusal)
                self._values.update(dict.fromkeys(node.outputs, 0))
        self.refused += refusals.found
        if not self.refused:
            self._outputs(graph)

    def _outputs(self, graph: ir.Graph) -> None:
        """Graph outputs that no op makes: constants are copied, inputs as they stand are refused (E0710)."""
        for value in graph.outputs:
            name, held = value.name or "", constant(value)
            if value.is_graph_input():
                message = f"output {{}} of `{self.module.name}` is an input as it stands, which MNN does not give back"
                self.refused.append(Refusal("E0710", message, name, help="leave it out of the outputs of the model"))
            elif held is not None and held.dtype in _TYPES and (array := self._small(held)) is not None:
                made = self.net.const(f"{name}/constant", array)
                self._values[value] = self.net.add("Identity", [made], [name])[0]
            elif value not in self._values:
                message = f"output {{}} of `{self.module.name}` is a constant of a type MNN cannot take"
                self.refused.append(Refusal("E0710", message, name, help="leave it out of the outputs of the model"))

    def _visit(self, node: ir.Node) -> None:
        if node.op_type == "Constant" or as_quantized(node) is not None or self._is_weight_transpose(node):
            return  # what reads it, reads through it
        more = next((one for one in node.outputs[1:] if one.uses() or one.is_graph_output()), None)
        if more is not None:
            self.refuse(node, f"its result `{more.name}` besides the first is read")
        if node.op_type in _ALIASES:
            source = self.value(node, 0)
            made = self.op(node, "Identity", [source], None) if node.outputs[0].is_graph_output() else source
        elif node.domain not in ("", "ai.onnx") or node.op_type not in HANDLERS:
            self.refuse(node, "no lowering for it")
        elif node.op_type not in _MOVES and any(_is_integer(value) for value in (*node.inputs[:1], *node.outputs)):
            self.refuse(node, "MNN computes integers as floats, which are exact up to 2^24 only")
        else:
            made = HANDLERS[node.op_type](self, node)  # refuses what it has no form for
            self._judge(node)
        self._values[node.outputs[0]] = made

    def _judge(self, node: ir.Node) -> None:
        use = use_of(node)
        problem = None if self.legality is None else self.legality.problem(use)
        if self.legality is not None and problem is not None:
            unproven = (use,) if self.legality.unknown(use) else ()
            self.refuse(node, f"it {problem} (`targets/mnn/conformance/table.json`)", unproven)

    # --- what handlers ask ------------------------------------------------------------------------------------

    def value(self, node: ir.Node, position: int) -> int:
        """Operand `position` as a tensor; a constant is added when it is first read."""
        value = node.inputs[position]
        if value is None:
            self.refuse(node, f"operand {position} is left out")
        if value not in self._values:
            self._values[value] = self._constant_tensor(node, value)
        return self._values[value]

    def constant(self, node: ir.Node, position: int) -> np.ndarray:
        """Operand `position`, which has to be a constant."""
        weight = constant(node.inputs[position])
        if weight is None:
            self.refuse(node, f"operand {position} is not a constant")
        return np.asarray(numbers(weight))

    def is_constant(self, node: ir.Node, position: int) -> bool:
        """Whether operand `position` is a constant."""
        return constant(node.inputs[position]) is not None

    def size(self, node: ir.Node, position: int, axis: int) -> int | None:
        """The size of an operand along an axis; None if it is open."""
        value = node.inputs[position]
        size = None if value is None or value.shape is None else value.shape[axis]
        return size if isinstance(size, int) else None

    def rank(self, node: ir.Node, position: int) -> int:
        """The rank of an operand; E0710 if it is unknown."""
        value = node.inputs[position]
        if value is None or value.shape is None:
            self.refuse(node, "an operand of unknown rank")
        return len(value.shape)

    def name(self, node: ir.Node) -> str:
        """The name of the node's result."""
        return node.outputs[0].name or node.name or ""

    def op(self, node: ir.Node, kind: str, inputs: list[int], table: OpParameters | None) -> int:
        """An op of MNN whose result is the node's."""
        return self.net.add(kind, inputs, [self.name(node)], table)[0]

    def packed(self, node: ir.Node, kind: str, table: OpParameters) -> int:
        """An op on the packed layout, with conversions around it."""
        name = self.name(node)
        x = self.net.one("ConvertTensor", [self.value(node, 0)], f"{name}/in", *tables.layout("NCHW", "NC4HW4"))
        x = self.net.one(kind, [x], f"{name}/packed", *table, layout="NC4HW4")
        return self.op(node, "ConvertTensor", [x], tables.layout("NC4HW4", "NCHW"))

    def is_linear(self, node: ir.Node) -> bool:
        """Whether the node multiplies by a constant weight."""
        return as_linear(node) is not None

    def linear(self, node: ir.Node) -> Linear:
        """The linear `node` stands for; E0710 if its weight is not a constant or is stored as [in, out]."""
        linear = as_linear(node)
        if linear is None:
            self.refuse(node, "its weight is not a constant")
        if linear.quant is not None and not linear.rows_are_outputs:
            self.refuse(node, "its quantised weight is stored as [in, out]")
        return linear

    def write(self, linear: Linear, bias: np.ndarray | None) -> Blob:
        """Stream a weight into the weight file."""
        if linear.quant is not None:
            blob = blobs.write_quantized(self.file, linear.quant, bias)
        else:
            blob = blobs.write_float(self.file, linear.weight(), bias)
        if self.legality is not None:
            check_format(linear.name, blob.describe())
        self.blobs[linear.name], self.linears[linear.name] = blob, linear
        return blob

    def dense(self, node: ir.Node, bias: np.ndarray | None) -> int:
        """A linear on the last axis of any number of leading ones."""
        linear, name, x = self.linear(node), self.name(node), self.value(node, 0)
        rows, columns = linear.shape[:2]
        leading = list(node.inputs[0].shape or ())[:-1] if node.inputs[0] is not None else []
        y = self.net.one("Reshape", [x], f"{name}/rows", *tables.reshape([-1, columns, 1, 1]))
        y = self.net.one("ConvertTensor", [y], f"{name}/in", *tables.layout("NCHW", "NC4HW4"))
        table = tables.convolution(self.write(linear, bias), columns, rows)
        y = self.net.one("Convolution", [y], f"{name}/packed", *table, layout="NC4HW4")
        y = self.net.one("ConvertTensor", [y], f"{name}/plain", *tables.layout("NC4HW4", "NCHW"))
        if sum(not isinstance(d, int) for d in leading) <= 1:
            dims = [d if isinstance(d, int) else -1 for d in leading]
            return self.op(node, "Reshape", [y], tables.reshape([*dims, rows]))
        return self.op(
            node, "Reshape", [y, self._leading(name, x, len(leading), rows)], ("Reshape", {"dimType": "NCHW"})
        )

    def refuse(self, node: ir.Node, why: str, unproven: tuple[Use, ...] = ()) -> NoReturn:
        """Raise E0710 for `node`; `why` completes "MNN cannot run it: …"."""
        refuse(
            "E0710",
            f"MNN cannot run {{}} ({node.op_type}) of `{self.module.name}`: {why}",
            node.name or "",
            help="deploy the model `as ort`, or rewrite this node with a pass of your own",
            unproven=unproven,
        )

    # --- inside -----------------------------------------------------------------------------------------------

    def _leading(self, name: str, x: int, rank: int, width: int) -> int:
        """The shape [.., width] of a result, computed from the operand's at run time."""
        shape = self.net.one("Shape", [x], f"{name}/shape")
        parts = {"begin": [0], "end": [rank], "step": [1]}
        bounds = [self.net.const(f"{name}/{key}", np.array(value, np.int32)) for key, value in parts.items()]
        kept = self.net.one(
            "StridedSlice", [shape, *bounds], f"{name}/leading", "StridedSliceParam", {"fromType": 0, "T": "DT_INT32"}
        )
        last = self.net.const(f"{name}/width", np.array([width], np.int32))
        return self.net.one("Concat", [kept, last], f"{name}/shape_out", *tables.axis(0))

    def _constant_tensor(self, node: ir.Node, value: ir.Value) -> int:
        weight = constant(value)
        if weight is None:
            self.refuse(node, f"its operand `{value.name}` is not known")
        if weight.dtype not in _TYPES:
            self.refuse(node, f"its constant `{value.name}` is of type {weight.dtype.name.lower()}")
        name = value.name or f"{node.name}/constant"
        if weight.size > _INLINE and weight.dtype == ir.DataType.FLOAT:
            return self._table(node, name, weight)
        array = self._small(weight)
        if array is None:
            self.refuse(node, f"its constant `{name}` holds integers beyond 32 bits, all that MNN has")
        return self.net.const(name, array)

    @staticmethod
    def _small(weight: blobs.Weight) -> np.ndarray | None:
        """The numbers of a constant, integers in 32 bits; None where they do not fit."""
        array = np.asarray(numbers(weight))
        if array.dtype != np.int64:
            return array
        narrow = array.astype(np.int32)
        return narrow if np.array_equal(narrow, array) else None

    def _table(self, node: ir.Node, name: str, weight: blobs.Weight) -> int:
        """A big float constant, streamed into the weight file."""
        size = 4 * weight.size
        if size >= _LARGEST:
            self.refuse(node, f"its constant `{name}` is {size / 2**30:.1f} GiB, and MNN takes less than 2 GiB")
        offset, size = self.file.tell(), 0
        for _, block in () if isinstance(weight, DryWeight) else weight.blocks():
            size += self.file.write(np.ascontiguousarray(block, np.float32).tobytes())
        fields = {"dims": list(weight.dims), "dataFormat": "NCHW", "dataType": "DT_FLOAT", "external": [offset, size]}
        return self.net.one("Const", [], name, "Blob", fields)

    def _is_weight_transpose(self, node: ir.Node) -> bool:
        if node.op_type != "Transpose" or node.inputs[0] is None:
            return False
        source = node.inputs[0]
        stored = constant(source) is not None or as_quantized(source.producer()) is not None
        made = node.outputs[0]
        return stored and not made.is_graph_output() and all(self.is_linear(reader) for reader, _ in made.uses())


def _names(graph: ir.Graph) -> Iterator[str]:
    """The names of all tensors of the model."""
    made = (value for node in graph for value in node.outputs)
    return (value.name for value in (*graph.inputs, *graph.initializers.values(), *made) if value.name)


def _is_integer(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in (ir.DataType.INT32, ir.DataType.INT64)
