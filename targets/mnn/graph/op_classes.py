"""What the conformance table of MNN distinguishes: which shape entries are numbers, which attributes are settled.

Sizes are no part of a shape: MNN's kernels take any, and what was emitted is run beside ONNX Runtime before it counts
(`emit_graph.py`). Attributes are, all but those that are settled: refused at other values, or without arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....compiler.emit.conformance.op_class import ClassRule, Use

if TYPE_CHECKING:
    import onnx_ir as ir

    from ....compiler.emit.conformance.op_class import Cell

_LAST = "only the last axis is taken"
_MOVES = "which value goes where: a copy"

CLASSES = ClassRule(
    numbers=frozenset({"kernel_shape", "strides", "pads", "dilations", "groups", "epsilon", "alpha"}),
    settled={
        "BatchNormalization": {"training_mode": "refused", "momentum": "of training, which is refused"},
        "Concat": {"axis": _MOVES},
        "Conv": {"auto_pad": "refused", "group": "the columns depthwise and groups"},
        "Flatten": {"axis": "refused unless 1"},
        "Gather": {"axis": _MOVES},
        "Gemm": {
            "alpha": "refused unless 1",
            "beta": "refused unless 1",
            "transA": "refused",
            "transB": "the weight is stored as MNN wants it",
        },
        "LayerNormalization": {"axis": _LAST},
        "MaxPool": {"dilations": "refused unless 1", "storage_order": "of the indices, which are refused"},
        "AveragePool": {"dilations": "refused unless 1"},
        "RMSNormalization": {"axis": _LAST},
        "Reshape": {"allowzero": "refused"},
        "Softmax": {"axis": "the column last"},
        "Swish": {"alpha": "refused unless 1"},
        "Transpose": {"perm": _MOVES},
    },
)


def use_of(node: ir.Node) -> Use:
    """What `node` becomes in MNN, as a row of the table would have it."""
    cells: dict[str, Cell] = {}
    if node.op_type == "Conv":
        cells = _grouping(node)
    if node.op_type == "Softmax":
        x, axis = node.inputs[0], node.attributes.get_int("axis", -1)
        rank = len(x.shape) if x is not None and x.shape is not None else 0
        cells = {"last": axis in (-1, rank - 1)}
    return Use(node.op_type, CLASSES.shape(node, cells), node.name or node.op_type)


def linear_use(name: str, format: str) -> Use:
    """A linear whose weight is stored as `format` (`int4 block 32 symmetric`)."""
    return Use("linear", (("format", format),), name)


def _grouping(node: ir.Node) -> dict[str, Cell]:
    weight, group = node.inputs[1], node.attributes.get_int("group", 1) or 1
    per_group = weight.shape[1] if weight is not None and weight.shape is not None else None
    if group == 1:
        return {"depthwise": False}
    outputs = weight.shape[0] if weight is not None and weight.shape is not None else None
    depthwise = per_group == 1 and outputs == group
    return {"depthwise": True} if depthwise else {"depthwise": False, "groups": group}
