"""The state of a decoder's lowering, and how its values become tensors of MNN's graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NoReturn

import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import fail
from ....compiler.emit.capabilities import Refusal
from ....compiler.emit.refusals import refuse
from ....compiler.ir.linears import Linear
from ..conformance.table import check_format
from ..file import op_parameters as tables
from ..file import weight_blobs as blobs
from ..file.weight_blobs import Blob
from ..file.writer import Net
from .lowered_values import Angle, Attended, Gate, Heads, HiddenState, Normed, Pending, Positions, Rotary, Sum

if TYPE_CHECKING:
    from ....compiler.ir.module import Module

Form = HiddenState | Pending | Sum | Heads | Normed | Attended | Gate | Angle | Positions | Rotary


class LoweringState:
    """What is known of each value, the MNN graph so far, and where each linear's weight is stored."""

    def __init__(self, module: Module, weights: BinaryIO) -> None:
        if module.arch is None:
            raise ValueError(f"module `{module.name}` is no decoder")
        self.module, self.arch, self.file = module, module.arch, weights
        self.net = Net()
        self.blobs: dict[str, Blob] = {}
        self.linears: dict[str, Linear] = {}
        self.embedding: Linear | None = None
        self.refused: list[Refusal] = []
        self._forms: dict[ir.Value, Form] = {}
        self._rotaries: dict[tuple[int, int], tuple[int, int]] = {}
        self._hidden = self.net.input("input_ids", [-1, 1, self.arch.hidden], "DT_FLOAT")
        self._mask = self.net.input("attention_mask", [1, 1, -1, -1], "DT_FLOAT")
        positions = self.net.input("position_ids", [1, -1], "DT_INT32")
        self._index = self.net.input("logits_index", [1], "DT_INT32")
        graph = module.main.graph
        self._inputs = {value.name: value for value in graph.inputs}
        self._forms[self._input("position_ids")] = Positions(positions)

    def _input(self, name: str) -> ir.Value:
        if name not in self._inputs:
            fail("E0703", f"the graph of `{self.module.name}` has no input `{name}`")
        return self._inputs[name]

    def _set(self, node: ir.Node, form: Form) -> None:
        self._forms[node.outputs[0]] = form

    def _form(self, value: ir.Value | None) -> Form | None:
        return None if value is None else self._forms.get(value)

    def _packed(self, node: ir.Node, position: int) -> HiddenState:
        """Operand `position` as a tensor of the engine, lowering what was waiting."""
        form = self._form(node.inputs[position])
        if isinstance(form, HiddenState):
            return form
        if isinstance(form, Pending):
            if form.index is None:
                form.index = self._write(form)
            return HiddenState(form.index, form.linear.shape[0])
        if isinstance(form, Sum):
            if form.index is None:
                pair = [form.left.index, form.right.index]
                form.index = self.net.one("BinaryOp", pair, form.name, *tables.binary("ADD"), layout="NC4HW4")
            return HiddenState(form.index, form.left.width)
        name = getattr(node.inputs[position], "name", None)
        self._refuse(node, f"its operand `{name}` is not a hidden state")

    def _write(self, pending: Pending) -> int:
        """Stream the weight into the weight file and add the op that reads it."""
        linear, (rows, columns) = pending.linear, pending.linear.shape[:2]
        if linear.quant is not None:
            tied = self.embedding is not None and self.embedding.initializer is linear.initializer
            blob = blobs.write_quantized(self.file, linear.quant, pending.bias, looked_up=tied)
        else:
            blob = blobs.write_float(self.file, linear.weight(), pending.bias)
        check_format(linear.name, blob.describe())
        self.blobs[linear.name], self.linears[linear.name] = blob, linear
        table = tables.convolution(blob, columns, rows)
        return self.net.one("Convolution", [pending.x.index], linear.name, *table, layout="NHWC")

    def _refuse(self, node: ir.Node, why: str, alone: bool = False) -> NoReturn:
        """Refuse `node`; most reasons are about the forms of its operands, `alone` ones are not."""
        refuse(
            "E0703",
            f"MNN's LLM engine cannot run {{}} ({node.op_type}) of `{self.module.name}`: {why}",
            node.name or "",
            help="leave this node as the loader made it, or deploy the model `as ort`",
            alone=alone,
        )


def number(node: ir.Node, name: str) -> float:
    """A numeric attribute of `node`, 0.0 where it is absent."""
    attribute = node.attributes.get(name)
    return 0.0 if attribute is None else float(attribute.value)
